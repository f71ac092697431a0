"""Raw files: plain or gzipped JSON, JSON lines, CSV and text. One that cannot be read is a UserError with its name."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from finemem_jax.config import UserError
from finemem_jax.corpora import _fields


def find(given: str, *patterns: str) -> list[Path]:
    """`given` itself if it is a file of a kind that a pattern ends in; else the files of that folder that match a
    pattern, gzipped or not, sorted."""
    path = Path(given)
    if path.is_file():
        kinds = sorted({Path(pattern).suffix for pattern in patterns})
        if not path.name.removesuffix(".gz").endswith(tuple(kinds)):
            raise UserError(f"--input={given}: this source reads {' or '.join(kinds)} files (or .gz), not such a file")
        return [path]
    if not path.is_dir():
        raise UserError(f"--input={given}: no such file or folder")
    found = {file for pattern in patterns for ending in ("", ".gz") for file in path.glob(pattern + ending)}
    if not found:
        raise UserError(f"--input={given}: no file {' or '.join(patterns)} (or .gz) in that folder")
    return sorted(found)


def read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:  # a gzip cut off or damaged, a folder of that name
        raise UserError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: Path) -> object:
    """The JSON value of a file. Raises UserError where it is none."""
    try:
        return _fields.loads(read_text(path))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def read_list(path: Path) -> list:
    """The JSON list of a file."""
    found = read_json(path)
    if not isinstance(found, list):
        raise UserError(f"{path}: want a list of rows")
    return found


def read_json_lines(path: Path) -> Iterator[Mapping[str, object]]:
    """The object of each line that is not empty."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # U+2028 and its like may stand in a text
        if line.strip():
            try:
                row = _fields.loads(line)
            except ValueError as error:
                raise UserError(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(row, Mapping):
                raise UserError(f"{path} line {number}: want an object, got {line[:80]!r}")
            yield row


BEYOND = "more cells than the table has columns"


def read_csv(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a table that has these columns, each with a text in all of them.

    A row with more cells than the table has columns is refused; without `columns` it is given, with a field BEYOND."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), restkey=BEYOND, strict=True)
    try:
        missing = [name for name in columns if name not in (rows.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)}; want {','.join(columns)}")
        for row in rows:
            empty = [name for name in columns if not (row[name] or "").strip()]
            if empty:
                raise UserError(f"{path} line {rows.line_num}: nothing in column {', '.join(empty)}")
            if columns and BEYOND in row:
                raise UserError(f"{path} line {rows.line_num}: {BEYOND}")
            yield row
    except csv.Error as error:
        raise UserError(f"{path} line {rows.line_num} is not CSV: {error}") from error
