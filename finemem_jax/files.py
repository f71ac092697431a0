"""The files of a run: metrics as JSON lines, written so that a killed run leaves nothing half written that counts.

metrics.jsonl holds what a seed determines, byte for byte; wall-clock times go to timings.jsonl beside it.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, TypeGuard

from finemem_jax.console import tell
from finemem_jax.exits import UserError

Expected = Callable[[dict], bool]
"""Whether an object is what stands in the lines of a log."""


LABELS = ("policy", "stage")  # what a line of numbers is of


def has_step(record: dict) -> bool:
    step = record.get("step")
    return isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63


def holds_numbers(record: dict) -> bool:
    """A line of metrics or times: a step, and of each name a number, or null where it was not finite; text under
    LABELS alone."""
    return has_step(record) and all(
        isinstance(value, str) if name in LABELS else value is None or is_number(value)
        for name, value in record.items()
    )


def is_evaluation(record: dict) -> bool:
    """A line of evaluations: a step, a policy and its numbers, the accuracy among them; null where nothing was
    answered."""
    return holds_numbers(record) and "policy" in record and "accuracy" in record


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def export_folders(out: Path, roles: Iterable[str]) -> list[Path]:
    """Where a policy is exported to `out`: there, or in a folder there for each role that has adapters of its own
    (`config.model.lora.roles`)."""
    return [out / role for role in roles] or [out]


def local_path(text: str, name: str) -> str:
    """The text, as a path that this package can open. name: of the option that it stands at. Raises UserError on an
    address: `gs://bucket/run` would become a folder `gs:` here, and a run in it would be gone with the machine."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://", text):
        raise UserError(f"{name}={text}: only local paths are read and written; mount the bucket and give its folder")
    return text


class JsonLines:
    """An append-only file of JSON objects, one per line, each with its "step"."""

    def __init__(
        self, path: Path, *, keep_below: int | None = None, is_muted: bool = False, expected: Expected = has_step
    ):
        """Opens for appending. keep_below: drop lines of this step and later ones, and a half-written last line,
        which a run that resumes at that step will write again. is_muted: another process writes this file.

        A file with lines that are not `expected` is damaged: it is kept under another name, its other lines stay in
        use, and what is lost is said."""
        self.path = path
        self._waiting: list[str] = []  # lines that could not be written yet
        self._is_muted = is_muted
        if is_muted:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        found = recover(path, expected)
        kept = [record for record in found.records if keep_below is None or record["step"] < keep_below]
        if found.damaged or not found.is_whole or len(kept) < len(found.records):
            write_json_lines(path, kept)
        path.touch()

    def write(self, step: int, values: Mapping[str, object], most: int | None = None) -> None:
        """Appends a line and brings it to the disk. When that fails (OSError: disk full) the file is as it was, and
        the line goes before the next one. most: bytes that the file may have with it; else it is left out."""
        if self._is_muted:
            return
        line = _dump({"step": step, **values}) + "\n"
        if most is not None:
            waiting = sum(len(_encode(text)) for text in (*self._waiting, line))
            if waiting + (self.path.stat().st_size if self.path.exists() else 0) > most:
                return
        self._waiting.append(line)
        self.flush()

    def flush(self) -> None:
        """Writes what could not be written before. Raises OSError when it still cannot."""
        if not self._waiting:
            return
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, _encode("".join(self._waiting)))
                # A checkpoint that outlives a power cut must not be ahead of its metrics.
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        self._waiting.clear()


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a JSON lines file."""

    records: list[dict]
    damaged: list[int]  # numbers, from 1, of the lines that are not what was written
    is_whole: bool = True  # the last line has its end: it was not cut off by a kill

    def describe(self) -> str:
        lines = len(self.records) + len(self.damaged)
        return f"{len(self.damaged)} of {lines} lines cannot be read (the first is line {self.damaged[0]})"


def scan(path: Path, expected: Expected = bool) -> Scan:
    """Every line of a file by itself: one that is damaged hides no other. Half a line at the end, as a kill leaves it,
    is no damage."""
    # Not splitlines(): a text may hold U+2028 and other characters that it takes for ends of lines.
    *lines, last = path.read_bytes().split(b"\n")
    found = [parse_line(line, expected) for line in lines]
    records = [record for record in found if record is not None]
    if (record := parse_line(last, expected)) is not None:
        records.append(record)
    return Scan(records, [number for number, record in enumerate(found, start=1) if record is None], not last)


def read_lines(path: Path, expected: Expected = bool) -> list[dict]:
    """The objects of a JSON lines file; lines that are damaged or half written are left out."""
    return scan(path, expected).records


def parse_line(line: bytes, expected: Expected = bool) -> dict | None:
    """The object in a line; None when there is none, or not one that is expected."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse, parse_float=_parse_float)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, NaN, an absurd number, a million brackets
        return None
    return value if isinstance(value, dict) and expected(value) else None


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file, or something else in it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def recover(path: Path, expected: Expected) -> Scan:
    """What can be used of a log. Of a damaged one a copy is kept as NAME.damaged-N, and a warning says what is lost."""
    if not os.path.lexists(path):
        return Scan([], [])
    try:
        found = scan(path, expected)
    except OSError as error:  # a folder, a broken disk: nothing of it can be used
        aside = _free_name(path)
        path.rename(aside)
        tell(f"WARNING: {path} cannot be read ({error.strerror}) and is kept as {aside.name}", file=sys.stderr)
        return Scan([], [])
    if found.damaged:
        aside = _free_name(path)
        shutil.copyfile(path, aside)
        tell(f"WARNING: {path}: {found.describe()}; they are lost, the file is kept as {aside.name}", file=sys.stderr)
    return found


def _free_name(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    return aside


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file in one step: a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # what a kill left, or a link, whose target is not ours
        with temporary.open("xb", buffering=0) as file:
            _write_all(file, _encode(content) if isinstance(content, str) else content)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file would hold what space a full disk has left
        raise


def write_json_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    write_atomically(path, "".join(f"{_dump(record)}\n" for record in records))


def _encode(text: str) -> bytes:
    """UTF-8. A lone surrogate, which has no UTF-8, is written as \\udXXX: inside a JSON string that is itself."""
    return text.encode("utf-8", "backslashreplace")


def _write_all(file: RawIOBase, data: bytes) -> None:
    """A raw write may stop half way (at a limit, or when the disk fills up); the next one says why."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _dump(values: Mapping[str, object]) -> str:
    return json.dumps(_finite(values), ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    """NaN and infinities are not JSON: they become null. Floats keep 9 significant digits (float32 needs no more)."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
