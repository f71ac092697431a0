"""The files of a run: metrics as JSON lines, written so that a killed run leaves nothing half written that counts.

metrics.jsonl holds what a seed determines, byte for byte; wall-clock times go to timings.jsonl beside it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from io import RawIOBase
from pathlib import Path


class JsonLines:
    """An append-only file of JSON objects, one per line, each with its "step"."""

    def __init__(self, path: Path, *, keep_below: int | None = None, is_muted: bool = False):
        """Opens for appending. keep_below: drop lines of this step and later ones, and a half-written last line,
        which a run that resumes at that step will write again. is_muted: another process writes this file."""
        self.path = path
        self._waiting: list[str] = []  # lines that could not be written yet
        self._is_muted = is_muted
        if is_muted:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep_below is not None and path.exists():
            write_json_lines(path, [line for line in read_lines(path) if line["step"] < keep_below])
        path.touch()

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """Appends a line and brings it to the disk. When that fails (OSError: disk full) the file is as it was, and
        the line goes before the next one."""
        if self._is_muted:
            return
        self._waiting.append(_dump({"step": step, **values}) + "\n")
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


def read_lines(path: Path) -> list[dict]:
    """The objects of a JSON lines file; a half-written last line is left out."""
    lines = []
    # Not splitlines(): a text may hold U+2028 and other characters that it takes for ends of lines.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file in one step: a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb", buffering=0) as file:
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
