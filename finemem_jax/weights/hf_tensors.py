"""Between checkpoint tensors and parameters: which fills which, straight into the shards and back out of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from finemem_jax.config import UserError
from finemem_jax.nn.layers import abstract_params
from finemem_jax.nn.lora import ADAPTER, merged_kernel, without_adapters
from finemem_jax.weights.safetensor_files import Checkpoint, Tensor

CHUNK_BYTES = 8 << 20  # of a tensor are on their way from file to device at once


@dataclass(frozen=True, slots=True)
class Source:
    """The checkpoint tensors that fill one parameter: one per layer (`stacked`), or one."""

    names: tuple[str, ...]
    shape: tuple[int, ...]  # of the parameter
    dtype: str  # of the parameter
    stacked: bool
    transposed: bool  # Linear layers: a checkpoint has [out, in], we have [in, out]

    def tensor_shape(self) -> tuple[int, ...]:
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def tensor_sources(family: ModuleType, shapes: dict) -> Iterator[tuple[tuple[str, ...], Source, str]]:
    """(parameter path, source, name template) of each parameter, in the order of the family's TENSOR_MAP."""
    flat = flatten_dict(shapes)
    for template, joined in family.TENSOR_MAP.items():
        path = tuple(joined.split("/"))
        if path not in flat:
            continue
        leaf = flat[path]
        stacked = "{layer}" in template
        names = tuple(template.format(layer=i) for i in range(leaf.shape[0] if stacked else 1))
        yield path, Source(names, leaf.shape, leaf.dtype.name, stacked, path[-1] == "kernel"), template


def checked_sources(
    family: ModuleType, model: nn.Module, checkpoint: Checkpoint, folder: Path
) -> dict[tuple[str, ...], Source]:
    """The source of every parameter; raises UserError for a tensor that is missing, extra or of another shape."""
    sources = {path: source for path, source, _ in tensor_sources(family, abstract_params(model))}
    expected = {name: source.tensor_shape() for source in sources.values() for name in source.names}
    missing = [name for name in expected if name not in checkpoint.tensors]
    if missing:
        raise UserError(f"{folder}: tensor {missing[0]} is missing{_and_more(missing)}")
    extra = [name for name in checkpoint.tensors if name not in expected and not name.endswith("rotary_emb.inv_freq")]
    if model.cfg.tie_word_embeddings and "lm_head.weight" in extra:
        _check_tied(checkpoint, folder)
        extra.remove("lm_head.weight")
    if extra:
        raise UserError(f"{folder}: tensor {extra[0]} is not part of a {family.HF_MODEL_TYPE} model{_and_more(extra)}")
    for name, shape in expected.items():
        found = checkpoint.tensors[name].shape
        if found != shape:
            raise UserError(f"{folder}: tensor {name} has shape {list(found)}, config.json asks for {list(shape)}")
    return sources


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_tied(checkpoint: Checkpoint, folder: Path) -> None:
    # Some tied checkpoints store the table twice. A head that differs from it would be lost without a word.
    head, table = "lm_head.weight", "model.embed_tokens.weight"
    shape = checkpoint.tensors[table].shape
    same = checkpoint.tensors[head].shape == shape
    for start in range(0, shape[0], step := max(1, CHUNK_BYTES // (4 * shape[1]))):
        index = (slice(start, min(start + step, shape[0])), slice(None))
        same = same and np.array_equal(checkpoint.read(head, index), checkpoint.read(table, index))
    if not same:
        raise UserError(f"{folder}: config.json ties the embeddings, but {head} differs from {table}")


def load_parameter(checkpoint: Checkpoint, source: Source, sharding: NamedSharding | None) -> jax.Array:
    """One parameter, filled in place on its devices, chunk of rows by chunk of rows of each tensor."""
    shape = source.tensor_shape()
    spec = _tensor_spec(source, sharding)
    ways = math.prod(sharding.mesh.shape[name] for name in _names(spec[0])) if sharding else 1
    shard_rows = shape[0] // ways
    row_bytes = np.dtype(checkpoint.tensors[source.names[0]].dtype).itemsize * math.prod(shape[1:]) * ways
    rows = min(shard_rows, max(1, CHUNK_BYTES // row_bytes))
    if rows > TRANSPOSED_ROWS:
        rows -= rows % TRANSPOSED_ROWS

    write, finish = _writer(source.dtype, source.stacked, source.transposed, sharding, spec)
    buffer = jnp.zeros(source.shape, _carrier(source.dtype), device=sharding)
    for layer, name in enumerate(source.names):
        # The last chunk overlaps the one before instead of having a shape (and a compilation) of its own.
        for start in [*range(0, shard_rows - rows, rows), shard_rows - rows]:

            def read(index: tuple[slice, ...], name: str = name, start: int = start) -> np.ndarray:
                first = (index[0].start or 0) // rows * shard_rows + start
                return checkpoint.read(name, (slice(first, first + rows), *index[1:]))

            chunk_shape = (rows * ways, *shape[1:])
            if sharding is None:
                chunk = read(tuple(slice(0, size) for size in chunk_shape))
            else:
                chunk = jax.make_array_from_callback(chunk_shape, NamedSharding(sharding.mesh, spec), read)
            # Waiting keeps one chunk in flight: the host would otherwise run ahead and hold them all.
            buffer = write(buffer, chunk, layer, start).block_until_ready()
    return finish(buffer)


def _tensor_spec(source: Source, sharding: NamedSharding | None) -> PartitionSpec:
    """How a tensor as the checkpoint has it splits, so that each device gets what its shard needs."""
    spec = tuple(sharding.spec) if sharding else ()
    spec += (None,) * (len(source.shape) - len(spec))
    spec = spec[1:] if source.stacked else spec
    return PartitionSpec(*(spec[::-1] if source.transposed else spec))


def _names(axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return axis if isinstance(axis, tuple) else (axis,) if axis else ()


def _carrier(dtype: str) -> str:
    # XLA's CPU compiler updates a bfloat16 buffer by way of a float32 copy of all of it; the bits alone, in place.
    return "uint16" if dtype == "bfloat16" else dtype


# XLA's CPU transpose of a 6 MB bfloat16 chunk: 14 ms as one, 2.6 ms in blocks of this many rows.
TRANSPOSED_ROWS = 32


@functools.cache
def _writer(
    dtype: str, stacked: bool, transposed: bool, sharding: NamedSharding | None, chunk_spec: PartitionSpec
) -> tuple[Callable, Callable]:
    """write: (buffer, chunk, layer, start) -> buffer with the chunk's rows in it, each device into its own shard.
    finish: buffer -> parameter. Both reuse the buffer's memory."""

    def put(buffer: jax.Array, rows: jax.Array, layer: jax.Array, start: jax.Array) -> jax.Array:
        at = [start] + [0] * (rows.ndim - 1)
        rows, at = (rows.T, at[::-1]) if transposed else (rows, at)
        rows, at = (rows[None], [layer, *at]) if stacked else (rows, at)
        return jax.lax.dynamic_update_slice(buffer, rows, at)

    def write(buffer: jax.Array, chunk: jax.Array, layer: jax.Array, start: jax.Array) -> jax.Array:
        chunk = jax.lax.bitcast_convert_type(chunk.astype(dtype), buffer.dtype)
        size = TRANSPOSED_ROWS
        if not transposed or chunk.shape[0] % size:
            return put(buffer, chunk, layer, start)
        blocks = chunk.reshape(-1, size, chunk.shape[1])
        return jax.lax.fori_loop(
            0, blocks.shape[0], lambda i, buffer: put(buffer, blocks[i], layer, start + i * size), buffer
        )

    def finish(buffer: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(buffer, dtype)

    if sharding is not None:
        specs = (sharding.spec, chunk_spec, PartitionSpec(), PartitionSpec())
        write = jax.shard_map(write, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec)
    return jax.jit(write, donate_argnums=0), jax.jit(finish, donate_argnums=0)


def export_tensors(family: ModuleType, model: nn.Module, params: dict, dtype: np.dtype) -> Iterator[Tensor]:
    """The checkpoint's tensors in the order of the family's TENSOR_MAP, adapters merged; nothing is fetched yet."""
    flat = flatten_dict(params)
    for path, source, _ in tensor_sources(family, without_adapters(params)):
        leaves = [flat[path], *(flat[a] for part in "ab" if (a := (*path[:-1], ADAPTER, part)) in flat)]
        for layer, name in enumerate(source.names):

            def fetch(leaves=leaves, source=source, layer=layer) -> np.ndarray:
                value, *adapter = [leaf[layer] for leaf in leaves] if source.stacked else leaves
                if adapter:
                    value = merged_kernel(model, value, *adapter)
                return _to_host((value.T if source.transposed else value).astype(dtype))

            yield Tensor(name, math.prod(source.tensor_shape()) * jnp.dtype(dtype).itemsize, fetch)


def adapter_tensors(family: ModuleType, params: dict) -> Iterator[Tensor]:
    """The tensors of a PEFT adapter file: lora_A `[rank, in]` and lora_B `[out, rank]` of each projection and layer."""
    flat = flatten_dict(params)
    for path, source, _ in tensor_sources(family, without_adapters(params)):
        for ours, theirs in (("a", "lora_A"), ("b", "lora_B")):
            leaf = flat.get((*path[:-1], ADAPTER, ours))
            if path[-1] != "kernel" or leaf is None:
                continue
            if leaf.ndim != 3:
                raise UserError("adapters are one per row or per role: only one that all rows share can be exported")
            for layer, name in enumerate(source.names):
                name = f"base_model.model.{name.removesuffix('weight')}{theirs}.weight"
                yield Tensor(name, leaf[0].nbytes, functools.partial(_adapter, leaf, layer))


def _adapter(leaf: jax.Array, layer: int) -> np.ndarray:
    return _to_host(leaf[layer].T)


def _to_host(value: jax.Array) -> np.ndarray:
    """The whole array on every host. Shards are put together in host memory, not on one device."""
    if value.is_fully_addressable:
        return np.ascontiguousarray(value)
    return np.ascontiguousarray(multihost_utils.process_allgather(value, tiled=True))
