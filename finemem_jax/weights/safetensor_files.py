"""A folder of safetensors files: read slice by slice, written shard by shard with an index.

Nothing here holds more than one slice (reading) or one shard (writing) in memory.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from finemem_jax.config import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class TensorFile:
    """Where a tensor lies, and what the file's header says of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # a value of FLOATS


def _is_plain_name(name: str) -> bool:
    """Whether an index may name such a file: one that lies in its own folder."""
    stem = name.removesuffix(".safetensors")
    return stem != name and re.fullmatch(r"[\w.-]+", stem) is not None


class Checkpoint:
    """The tensors of a folder, opened lazily: headers at once, data when a slice is read."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, TensorFile] = {}
        for file in _files(folder):
            try:
                with safe_open(file, "np") as handle:
                    found = {name: _header(file, name, handle.get_slice(name)) for name in handle.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]  # it may quote the whole header
                raise UserError(f"{file} is not a whole safetensors file: {reason}") from None
            if twice := sorted(found.keys() & self.tensors.keys()):
                raise UserError(f"{file}: tensor {twice[0]} is in {self.tensors[twice[0]].file.name}, too")
            self.tensors |= found

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A copy of one slice of a tensor, in the checkpoint's dtype. Only its bytes are read."""
        # Opened anew each time: the file is mapped, and what was touched counts as this process's memory until
        # the mapping goes. A handle that stayed open would grow to the size of the checkpoint.
        with safe_open(self.tensors[name].file, "np") as handle:
            return handle.get_slice(name)[index]


def _header(file: Path, name: str, header: Any) -> TensorFile:
    if header.get_dtype() not in FLOATS:
        raise UserError(f"{file}: {name} has dtype {header.get_dtype()}; supported: {', '.join(FLOATS)}")
    return TensorFile(file, tuple(header.get_shape()), FLOATS[header.get_dtype()])


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"{index} is not a safetensors index: {error!r}") from None
        for name in names:
            if not isinstance(name, str) or not _is_plain_name(name):
                raise UserError(f"{index} names {name!r}, which is no safetensors file of its folder")
    elif (folder / SINGLE).exists():
        names = [SINGLE]
    else:
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}; only safetensors checkpoints are read")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing, but {INDEX} names it")
    return [folder / name for name in names]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to be written: its size is known before its data is fetched to this host."""

    name: str
    nbytes: int
    fetch: Callable[[], np.ndarray]  # in a run of several processes all of them call it, in the same order


def write_tensors(folder: Path | None, tensors: Iterable[Tensor], max_shard_bytes: int) -> None:
    """Write tensors in order, as few files of at most `max_shard_bytes` as that allows (a larger tensor gets its
    own), with the index when there are several. `folder=None`: only fetch, for the processes that do not write."""
    shards = _split(tensors, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        arrays = {}
        for tensor in shard:
            array = tensor.fetch()
            if folder is not None:
                arrays[tensor.name] = array
        weight_map |= {tensor.name: file for tensor in shard}
        if folder is not None:
            _save(arrays, folder / file)
            _flush(folder / file)
    if folder is not None and len(shards) > 1:
        total = sum(tensor.nbytes for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _save(arrays: dict[str, np.ndarray], path: Path) -> None:
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)  # as the umask says; the library's own files are for their owner alone
    try:
        save_file(arrays, path, metadata={"format": "pt"})
        path.chmod(mode)
    except SafetensorError as error:  # which names a full disk in its text alone
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _split(tensors: Iterable[Tensor], max_shard_bytes: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _flush(file: Path) -> None:
    # A rename that reaches the disk before the data would make a half-written folder look whole after a crash.
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
