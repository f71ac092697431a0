"""Raw files: plain or gzipped JSON, JSON lines, CSV and text."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from finemem_jax.config import UserError


def find(given: str, *patterns: str) -> list[Path]:
    """`given` itself if it is a file; else the files of that folder that match a pattern, gzipped or not, sorted."""
    path = Path(given)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"--input={given}: no such file or folder")
    found = {file for pattern in patterns for ending in ("", ".gz") for file in path.glob(pattern + ending)}
    if not found:
        raise UserError(f"--input={given}: no file {' or '.join(patterns)} (or .gz) in that folder")
    return sorted(found)


def read_text(path: Path) -> str:
    with _open(path) as file:
        return file.read()


def read_json(path: Path) -> object:
    """The JSON value of a file. Raises UserError where it is none."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def read_json_lines(path: Path) -> Iterator[dict]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path} line {number} is not JSON: {error}") from error


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    with _open(path) as file:
        yield from csv.DictReader(file)


def _open(path: Path) -> IO[str]:
    # newline="": the csv module wants line ends as they are; JSON and our splitting take them all the same
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8", newline="")
    )
