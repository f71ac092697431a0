"""What stands at `config.data.path` -> the episodes of one split.

A file, a folder of files, or a dataset repository: a name on the hub, or a folder laid out as one, with a README that
assigns files to splits or the files in folders of their own (`data/train-00000-of-00001.parquet`).
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from finemem_jax import config, types
from finemem_jax.benchmarks._reading import SUFFIXES, Row, Rows, is_repository, read_rows_of, repository_splits
from finemem_jax.console import printable, tell


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands."""

    where: str  # its file and its number there, for messages
    row: int  # its number in its file, from 0
    number: int  # its number in its split, from 0: ids go on from file to file


ReadRow = Callable[[Mapping[str, object], Place], Iterable[types.Episode]]
"""A row as its episodes, none for a row that is left out on purpose. Raises UserError where it is bad."""

Open = Callable[["Path | None"], ReadRow]
"""What reads the rows of a file (None = of a repository)."""

_Read = Callable[["BadRows"], Iterator[types.Episode]]


class BadRows:
    """What becomes of rows that cannot be used (`config.data.on_bad_row`): the first ends the reading, or all are left
    out and counted."""

    def __init__(self, action: str):
        self._action = action
        self.count, self.first = 0, ""

    def add(self, error: config.UserError) -> None:
        if self._action == "stop":
            raise config.UserError(f"{error}; config.data.on_bad_row=skip leaves such rows out") from error
        self.count += 1
        self.first = self.first or str(error)

    def tell(self, place: str, of: str) -> None:
        """Says on stderr how many there were, if any."""
        if self.count:
            said = f"{self.count} bad rows of {place} are left out of {of}, the first: {self.first}"
            tell(printable(said, one_line=True), file=sys.stderr)


SIDE = ".chunk_questions.jsonl"  # beside a corpus; so are the report and the cache of `finemem data chunk-questions`
_HELD_OUT = 10  # one episode in so many
_SPLIT_NAMES = {"train": ("train",), "eval": ("validation", "val", "dev", "eval", "test")}  # first found counts


def load(cfg: config.DataConfig, split: str, seed: int, opened: Open) -> Sequence[types.Episode]:
    """The episodes of `cfg.path` (file, folder or hub name), checked; those of training in an order fixed by `seed`.

    With `cfg.eval_path`, or where a folder or hub dataset holds both splits, each split is read from its own files.
    Otherwise every tenth episode of each data source is held out (the last, where there are fewer than ten): the same
    ones whatever the seed, and none that training sees. How many rows were left out as bad is said on stderr.
    """
    if split not in ("train", "eval"):
        raise config.UserError(f"split {split!r}: allowed are train, eval")
    field = "eval_path" if split == "eval" and cfg.eval_path else "path"
    path = getattr(cfg, field)
    if not path:
        raise config.UserError(f"config.data.{field} is empty: give a parquet or JSON file, a folder or a hub name")
    parts, bad = _parts(path, field, opened), BadRows(cfg.on_bad_row)
    if parts.keys() >= {"train", "eval"}:
        episodes = list(parts[split](bad))
    else:
        episodes = [episode for read in parts.values() for episode in read(bad)]
        if not cfg.eval_path:
            held_out = split == "eval"
            episodes = [episode for episode, is_held_out in _ranked(episodes) if is_held_out == held_out]
    bad.tell(f"config.data.{field}={path}", f"the {split} split")
    kept = [episode for episode in episodes if not cfg.sources or episode.source in cfg.sources]
    if not kept:
        found = ", ".join(sorted({episode.source for episode in episodes})) or "none"
        raise config.UserError(
            f"no episodes in the {split} split of config.data.{field}={path}: config.data.sources={cfg.sources}, "
            f"data sources found: {found}, bad rows: {bad.count}; config.data.eval_path can name a file of its own "
            "for evaluation"
        )
    kept = kept[: cfg.limit or None]
    if split == "train":
        random.Random(seed).shuffle(kept)
    return tuple(kept)


def load_whole(cfg: config.DataConfig, split: str, opened: Open, name: str) -> Sequence[types.Episode]:
    """The same for a benchmark that is for evaluation alone: all of `cfg.eval_path`, or of `cfg.path`."""
    if split == "train":
        raise config.UserError(
            f"config.data.name={name} has no training split: evaluate on it, and train on another benchmark"
        )
    return load(replace(cfg, eval_path=cfg.eval_path or cfg.path), split, 0, opened)


def read_episodes(
    rows: Iterable[Row], where: str, first: int, read_row: ReadRow, bad: BadRows
) -> Iterator[types.Episode]:
    """The episodes of rows that stand at `where`, numbered from `first`."""
    for row, content in enumerate(rows):
        try:
            if isinstance(content, config.UserError):
                raise content
            episodes = tuple(read_row(content, Place(f"{where} row {row}", row, first + row)))
        except config.UserError as error:
            bad.add(error)
            continue
        yield from episodes


def _ranked(episodes: list[types.Episode]) -> Iterator[tuple[types.Episode, bool]]:
    """Each episode, and whether it is held out."""
    rows = Counter(episode.source for episode in episodes)
    seen: Counter[str] = Counter()
    for episode in episodes:
        seen[episode.source] += 1
        rank, total = seen[episode.source], rows[episode.source]
        yield episode, rank % _HELD_OUT == 0 or (1 < total < _HELD_OUT and rank == total)


# --------------------------------------------------------------------------------------------------------------
# Files and repositories
# --------------------------------------------------------------------------------------------------------------


def _parts(path: str, field: str, opened: Open) -> dict[str, _Read]:
    """How to read each split found at `path`: "train" and "eval", or "" for what is not divided."""
    if os.path.isdir(path):
        files = sorted(file for file in Path(path).iterdir() if _is_data(file))
        if not files or is_repository(Path(path)):
            return _repository_parts(path, field, opened)
        chosen = {split: _first_named(files, names) for split, names in _SPLIT_NAMES.items()}
        parts = {split: found for split, found in chosen.items() if found} or {"": files}
        return {split: partial(_read_files, found, opened) for split, found in parts.items()}
    if os.path.isfile(path):
        return {"": partial(_read_files, [Path(path)], opened)}
    name = path.partition(":")[0]
    is_name = name.count("/") == 1 and not name.startswith((".", os.sep)) and not name.endswith(SUFFIXES)
    if not is_name and not os.path.isdir(name):
        raise config.UserError(f"config.data.{field}={path}: no such file or folder, nor a hub name (owner/name)")
    return _repository_parts(path, field, opened)


def _is_data(file: Path) -> bool:
    return file.name.removesuffix(".gz").endswith(SUFFIXES) and ".chunk_questions." not in file.name


def _first_named(files: list[Path], names: tuple[str, ...]) -> list[Path]:
    """The files whose name starts with the first of `names` that any file starts with."""
    by_name = ([file for file in files if file.name.startswith(name)] for name in names)
    return next((found for found in by_name if found), [])


def _repository_parts(name: str, field: str, opened: Open) -> dict[str, _Read]:
    beside = next(Path(name).rglob("*" + SIDE), None) if os.path.isdir(name) else None
    if beside is not None:
        raise config.UserError(
            f"config.data.{field}={name}: {beside} lies beside a file of a dataset repository, where it is not read; "
            f"give the folder {beside.parent} itself"
        )
    there = repository_splits(name, field)
    chosen = {split: [n for n in names if n in there][:1] for split, names in _SPLIT_NAMES.items()}
    parts = {split: found for split, found in chosen.items() if found} or {"": list(there)}

    def read(splits: Sequence[str], bad: BadRows) -> Iterator[types.Episode]:
        first = 0
        for split in splits:
            rows = there[split]()
            yield from read_episodes(rows, f"{name} {split}", first, opened(None), bad)
            first += len(rows)

    return {part: partial(read, splits) for part, splits in parts.items()}


def _read_files(files: list[Path], opened: Open, bad: BadRows) -> Iterator[types.Episode]:
    first = 0  # number of a file's first row: ids go on from file to file
    for file in files:
        rows = _Counted(read_rows_of(file))
        yield from read_episodes(rows, str(file), first, opened(file), bad)
        first += rows.count


class _Counted:
    """Rows, counted as they pass."""

    def __init__(self, rows: Rows):
        self._rows, self.count = rows, 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            yield row
