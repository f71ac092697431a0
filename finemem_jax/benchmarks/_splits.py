"""What stands at `config.data.path` -> the episodes of one split.

Local files are read with pyarrow and json, without the copy in a cache that `datasets` would make; it also refuses
the empty frame that one of the published training files is. Names on the hub go through `datasets`.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from finemem_jax import config, types
from finemem_jax.benchmarks import _fields

Rows = Iterable[Mapping[str, object]]
ReadRows = Callable[[Rows, str, int, "Path | None"], Iterator[types.Episode]]
"""(rows, where they stand, number of the first row, their file or None) -> episodes. Raises UserError on a bad row."""

_Read = Callable[[], Iterator[types.Episode]]

SIDE = ".chunk_questions.jsonl"  # beside a corpus; so are the report and the cache of `finemem data chunk-questions`
_HELD_OUT = 10  # one episode in so many
_SPLIT_NAMES = {"train": ("train",), "eval": ("validation", "val", "dev", "eval", "test")}  # first found counts
_SUFFIXES = (".parquet", ".json", ".jsonl")


def load(cfg: config.DataConfig, split: str, seed: int, read_rows: ReadRows) -> Sequence[types.Episode]:
    """The episodes of `cfg.path` (file, folder or hub name), checked; those of training in an order fixed by `seed`.

    With `cfg.eval_path`, or where a folder or hub dataset holds both splits, each split is read from its own files.
    Otherwise every tenth episode of each data source is held out (the last, where there are fewer than ten): the same
    ones whatever the seed, and none that training sees.
    """
    if split not in ("train", "eval"):
        raise config.UserError(f"split {split!r}: allowed are train, eval")
    field = "eval_path" if split == "eval" and cfg.eval_path else "path"
    path = getattr(cfg, field)
    if not path:
        raise config.UserError(f"config.data.{field} is empty: give a parquet or JSON file, a folder or a hub name")
    parts = _parts(path, field, read_rows)
    if parts.keys() >= {"train", "eval"}:
        episodes = list(parts[split]())
    else:
        episodes = [episode for read in parts.values() for episode in read()]
        if not cfg.eval_path:
            held_out = split == "eval"
            episodes = [episode for episode, is_held_out in _ranked(episodes) if is_held_out == held_out]
    kept = [episode for episode in episodes if not cfg.sources or episode.source in cfg.sources]
    if not kept:
        found = ", ".join(sorted({episode.source for episode in episodes})) or "none"
        raise config.UserError(
            f"no episodes in the {split} split of config.data.{field}={path}: config.data.sources={cfg.sources}, "
            f"data sources found: {found}; config.data.eval_path can name a file of its own for evaluation"
        )
    kept = kept[: cfg.limit or None]
    if split == "train":
        random.Random(seed).shuffle(kept)
    return tuple(kept)


def load_whole(cfg: config.DataConfig, split: str, read_rows: ReadRows, name: str) -> Sequence[types.Episode]:
    """The same for a benchmark that is for evaluation alone: all of `cfg.eval_path`, or of `cfg.path`."""
    if split == "train":
        raise config.UserError(
            f"config.data.name={name} has no training split: evaluate on it, and train on another benchmark"
        )
    whole = config.DataConfig(path=cfg.path, eval_path=cfg.eval_path or cfg.path, sources=cfg.sources, limit=cfg.limit)
    return load(whole, split, 0, read_rows)


def _ranked(episodes: list[types.Episode]) -> Iterator[tuple[types.Episode, bool]]:
    """Each episode, and whether it is held out."""
    rows = Counter(episode.source for episode in episodes)
    seen: Counter[str] = Counter()
    for episode in episodes:
        seen[episode.source] += 1
        rank, total = seen[episode.source], rows[episode.source]
        yield episode, rank % _HELD_OUT == 0 or (1 < total < _HELD_OUT and rank == total)


# --------------------------------------------------------------------------------------------------------------
# Files and hub names
# --------------------------------------------------------------------------------------------------------------


def _parts(path: str, field: str, read_rows: ReadRows) -> dict[str, _Read]:
    """How to read each split found at `path`: "train" and "eval", or "" for what is not divided."""
    if os.path.isdir(path):
        files = sorted(file for file in Path(path).iterdir() if _is_data(file))
        if not files:
            raise config.UserError(f"config.data.{field}={path}: no {', '.join(_SUFFIXES)} file in that folder")
        chosen = {split: _first_named(files, names) for split, names in _SPLIT_NAMES.items()}
        parts = {split: found for split, found in chosen.items() if found} or {"": files}
        return {split: lambda found=found: _read_files(found, read_rows) for split, found in parts.items()}
    if os.path.isfile(path):
        return {"": lambda: _read_files([Path(path)], read_rows)}
    if path.endswith(_SUFFIXES) or path.startswith((".", os.sep)) or path.count("/") != 1:
        raise config.UserError(f"config.data.{field}={path}: no such file or folder, nor a hub name (owner/name)")
    return _hub_parts(path, field, read_rows)


def _is_data(file: Path) -> bool:
    return file.name.removesuffix(".gz").endswith(_SUFFIXES) and ".chunk_questions." not in file.name


def _first_named(files: list[Path], names: tuple[str, ...]) -> list[Path]:
    """The files whose name starts with the first of `names` that any file starts with."""
    by_name = ([file for file in files if file.name.startswith(name)] for name in names)
    return next((found for found in by_name if found), [])


def _hub_parts(name: str, field: str, read_rows: ReadRows) -> dict[str, _Read]:
    import datasets  # two seconds to import, which local files need not pay

    try:
        there = datasets.get_dataset_split_names(name)
        chosen = {s: [n for n in names if n in there][:1] for s, names in _SPLIT_NAMES.items()}
        parts = {split: found for split, found in chosen.items() if found} or {"": there}
        tables = {split: [datasets.load_dataset(name, split=n) for n in found] for split, found in parts.items()}
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise config.UserError(f"config.data.{field}={name}: not on disk, and the hub says: {reason}") from error

    def read(found: Sequence[Rows]) -> Iterator[types.Episode]:
        first = 0
        for rows in found:
            yield from read_rows(rows, name, first, None)
            first += len(rows)  # type: ignore[arg-type]

    return {split: lambda found=found: read(found) for split, found in tables.items()}


def _read_files(files: list[Path], read_rows: ReadRows) -> Iterator[types.Episode]:
    first = 0  # number of a file's first row: ids go on from file to file
    for file in files:
        rows = _Counted(read_rows_of(file))
        yield from read_rows(rows, str(file), first, file)
        first += rows.count


class _Counted:
    """Rows, counted as they pass."""

    def __init__(self, rows: Rows):
        self._rows, self.count = rows, 0

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        for row in self._rows:
            self.count += 1
            yield row


def read_rows_of(file: Path) -> Iterator[Mapping[str, object]]:
    """The rows of a parquet, JSON or JSON-lines file, the latter two gzipped or not. Raises UserError."""
    suffix = Path(file.name.removesuffix(".gz")).suffix
    number = 0
    try:
        if suffix == ".parquet":
            import pyarrow.parquet

            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=64):
                yield from batch.to_pylist()
            return
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text(encoding="utf-8")
        # Not splitlines(): U+2028 and its like may stand in a text.
        rows = (json.loads(line) for line in text.split("\n") if line.strip()) if suffix == ".jsonl" else _listed(text)
        for row in rows:
            if not isinstance(row, Mapping):
                raise config.UserError(f"{file} row {number}: must be an object, got {str(row)[:80]!r}")
            number += 1
            yield _fields.whole(row)
    except RecursionError as error:
        raise config.UserError(f"{file} row {number}: nested too deeply") from error
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError, a broken gzip an OSError
        if isinstance(error, config.UserError):
            raise
        raise config.UserError(f"{file} is not {suffix[1:]}: {str(error).splitlines()[0]}") from error


def _listed(text: str) -> list:
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("want a list of rows")
    return rows
