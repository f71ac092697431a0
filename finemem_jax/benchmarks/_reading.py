"""Rows of local files, and of dataset repositories: a name on the hub, or a folder laid out as one.

Parquet files and repositories are read through `datasets`. JSON files are not: its reader infers one Arrow type per
field from the first rows, so it fails where a later answer is a list, refuses texts that no UTF-8 can hold, and
cannot say which row is no object.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from finemem_jax import config
from finemem_jax.corpora import _fields

Row = Mapping[str, object] | config.UserError  # the latter: in its place, what is wrong with one that is no object
Rows = Iterable[Row]

SUFFIXES = (".parquet", ".json", ".jsonl")
_BATCH_ROWS = 64  # `datasets` takes the size of the first row group where none is given, and fails on an empty frame


def read_rows_of(file: Path) -> Iterator[Row]:
    """The rows of a parquet, JSON or JSON-lines file, the latter two gzipped or not.

    A line or an entry that is no object stands among them as its UserError. Raises UserError where it is the file that
    cannot be read: of another kind, cut off, not UTF-8, no JSON list.
    """
    suffix = Path(file.name.removesuffix(".gz")).suffix
    if suffix not in SUFFIXES or file.name.endswith(".parquet.gz"):
        raise config.UserError(f"{file}: rows are read from {', '.join(SUFFIXES)}, the latter two gzipped or not")
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(file)
            return
        # Lines end at "\n" alone: U+2028 and its like may stand in a text.
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8-sig", newline="\n") as stream:
            # One line after the other: a file may hold histories of millions of tokens.
            read = _read_lines(stream) if suffix == ".jsonl" else _fields.loads(stream.read())
            if not isinstance(read, list | Iterator):
                raise ValueError("want a list of rows")
            for number, row in enumerate(read):
                if isinstance(row, ValueError):
                    yield config.UserError(f"{file} row {number}: not JSON: {_reason(row)}")
                elif isinstance(row, Mapping):
                    yield row
                else:
                    yield config.UserError(f"{file} row {number}: must be an object, got {str(row)[:80]!r}")
    except (ValueError, OSError, EOFError, zlib.error) as error:  # the latter two: a gzip cut off or damaged
        if isinstance(error, config.UserError):
            raise
        raise config.UserError(f"{file} is not {suffix[1:]}: {_reason(error)}") from error


def _read_lines(lines: Iterable[str]) -> Iterator[object]:
    """The value of each line that is not empty, or the ValueError that says why it has none."""
    for line in lines:
        if line.strip():
            try:
                yield _fields.loads(line)
            except ValueError as error:
                yield error


def _parquet_rows(file: Path) -> Iterator[Row]:
    import datasets  # two seconds, which those who read JSON need not pay
    import pyarrow

    # Streaming: no copy of the file in a cache. The path is escaped because `datasets` takes it for a pattern.
    try:
        with _quiet():
            rows = datasets.load_dataset(
                "parquet",
                data_files=[glob.escape(os.path.abspath(file))],
                split="train",  # what files without a split are called
                streaming=True,
                batch_size=_BATCH_ROWS,
            )
        yield from rows
    except (pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise config.UserError(f"{file} is not parquet: {_reason(error)}") from error


# --------------------------------------------------------------------------------------------------------------
# Dataset repositories
# --------------------------------------------------------------------------------------------------------------


def is_repository(folder: Path) -> bool:
    """Whether its README says, as on the hub, which files belong to which split."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return head.startswith("---") and "data_files:" in head.split("\n---", 1)[0]


def repository_splits(name: str, field: str) -> dict[str, Callable[[], Any]]:
    """From each split of a dataset repository to a function that loads its rows, a `datasets.Dataset`.

    name: a hub name or a folder, after which ":NAME" chooses one of several configurations. Only what is loaded is
    downloaded and prepared: of one published corpus the training file is empty, which `datasets` refuses as a whole.
    Raises UserError, in one line, where the repository cannot be reached or read.
    """
    import datasets

    path, _, variant = name.partition(":")

    def fetch(action: Callable[..., Any], *args: object, **options: object) -> Any:
        try:
            with _quiet():
                return action(path, variant or None, *args, **options)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            wrapped = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
            reason = _reason(wrapped or error)
            place = "a folder without" if os.path.isdir(path) else "not on disk, and by that name no"
            raise config.UserError(f"config.data.{field}={name}: {place} readable data set: {reason}") from error

    builder = fetch(datasets.load_dataset_builder)
    files = builder.config.data_files or {}
    options = {"batch_size": _BATCH_ROWS} if hasattr(builder.config, "batch_size") else {}

    def load(split: str, found: list[str]) -> Any:
        return fetch(datasets.load_dataset, data_files={split: found}, split=split, **options)

    return {split: partial(load, split, list(found)) for split, found in files.items()}


def _reason(error: BaseException) -> str:
    """The first line of what went wrong."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a bar per file and a line per attempt to connect: an error says it all."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    had_bars = datasets.are_progress_bars_disabled() is False
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()
