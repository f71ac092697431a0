"""The files of a run: metrics as JSON lines, written so that a killed run leaves nothing half written that counts.

metrics.jsonl holds what a seed determines, byte for byte; wall-clock times go to timings.jsonl beside it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


class JsonLines:
    """An append-only file of JSON objects, one per line, each with its "step"."""

    def __init__(self, path: Path, *, keep_below: int | None = None):
        """Opens for appending. keep_below: drop lines of this step and later ones, and a half-written last line,
        which a run that resumes at that step will write again."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep_below is not None and path.exists():
            kept = [line for line in read_lines(path) if line["step"] < keep_below]
            write_atomically(path, "".join(f"{_dump(line)}\n" for line in kept))
        path.touch()

    def write(self, step: int, values: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_dump({"step": step, **values}) + "\n")


def read_lines(path: Path) -> list[dict]:
    """The objects of a JSON lines file; a half-written last line is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file in one step: a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    write_atomically(path, "".join(f"{_dump(record)}\n" for record in records))


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
