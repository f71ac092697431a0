"""Where decoding runs and what it reads: the host's own mesh, the weights on it, the two compiled programs.

Decoding is local to a host. Its chips share one copy of the model, split over the kv heads (tensor parallel), so
that no host waits for another inside a rollout; chips beyond the number of kv heads that divide evenly are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from finemem_jax.config import EngineConfig, FastConfig, UserError
from finemem_jax.decoding import generate
from finemem_jax.decoding.fast_places import FastPool, pad_texts
from finemem_jax.decoding.sampling import STOP_TOKENS
from finemem_jax.nn import decode_attention
from finemem_jax.nn.fast_weights import Basis, FastSetup, FastWeights, decode_shardings, empty_memory
from finemem_jax.nn.mesh import HEADS, on_mesh
from finemem_jax.nn.paged_cache import PagePool
from finemem_jax.nn.quantize import quantized
from finemem_jax.nn.sharding import AXES, DECODE_RULES, param_shardings
from finemem_jax.nn.typed import Jitted
from finemem_jax.rl import fast_write

CAST = ("kernel", "table", "bias", "a", "b")  # parameters that the model casts to its compute dtype before use


def decode_mesh(shape: Any, devices: list, tensor: int = 0) -> Mesh | None:
    """The mesh of a host's `devices`, `tensor` ways split (0: as many as divide the model's sizes); None for one
    device. shape: a TransformerConfig."""
    sizes = (shape.num_heads, shape.num_kv_heads, shape.intermediate_size)
    ways = tensor or int(np.gcd.reduce([len(devices), *sizes]))
    if ways > len(devices) or any(size % ways for size in sizes):
        raise UserError(
            f"config.engine.tensor={tensor}: {len(devices)} local device(s) and a model of {shape.num_heads} heads, "
            f"{shape.num_kv_heads} kv heads and mlp width {shape.intermediate_size} do not split so; 0 chooses"
        )
    return None if ways == 1 else _copies(devices[:ways], ways)


def _copies(devices: list, ways: int) -> Mesh:
    """Copies of the parameters, each split `ways` ways."""
    return Mesh(np.array(devices).reshape(-1, 1, 1, ways), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local_devices(params: Any) -> list:
    """This process's devices that hold a part of the parameters, in order."""
    return sorted(jax.tree.leaves(params)[0].sharding.addressable_devices, key=lambda device: device.id)


def weights_for_decoding(model: nn.Module, params: Any, mesh: Mesh | None, weights: str) -> Any:
    """The parameters on the decode mesh, in the dtype that the matmuls read (`model.cfg.dtype`), or as int8.

    The cast is the one that the model would make at every token; done once, it halves what a token reads. Parameters
    that lie over several processes are gathered, so all of those must call this at the same point.
    """
    dtype = jnp.dtype(model.cfg.dtype)

    def needs_cast(path: tuple, leaf: jax.Array) -> bool:
        return path[-1].key in CAST and leaf.dtype != dtype

    if any(jax.tree.leaves(jax.tree_util.tree_map_with_path(needs_cast, params))):
        params = jax.jit(
            partial(jax.tree_util.tree_map_with_path, lambda p, x: x.astype(dtype) if needs_cast(p, x) else x)
        )(params)
    is_spread = not jax.tree.leaves(params)[0].is_fully_addressable
    if is_spread:
        params = _own_copy(model, params, 1 if mesh is None else mesh.shape[HEADS])
    if mesh is not None:
        params = jax.device_put(params, param_shardings(model, mesh, DECODE_RULES))
    elif is_spread or len(local_devices(params)) > 1:
        params = jax.device_put(params, local_devices(params)[0])
    return jax.jit(quantized)(params) if weights == "int8" else params


def _own_copy(model: nn.Module, params: Any, ways: int) -> Any:
    """A whole copy of parameters that lie over several processes, in each of them: on its first `ways` devices, split
    over them. One collective, after which no process waits for another."""
    ways = ways if jax.local_device_count() % ways == 0 else 1
    processes = range(jax.process_count())
    devices = [[d for d in jax.devices() if d.process_index == process] for process in processes]
    everywhere = _copies([d for own in devices for d in own], ways)
    here = _copies(devices[jax.process_index()][:ways], ways)

    def take_own(array: jax.Array, sharding: NamedSharding) -> jax.Array:
        shards = {shard.device: shard.data for shard in array.addressable_shards}
        own = [shards[device] for device in here.devices.flat]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, own)

    gathered = jax.device_put(params, param_shardings(model, everywhere, DECODE_RULES))
    return jax.tree.map(take_own, gathered, param_shardings(model, here, DECODE_RULES))


def pool_of(model: nn.Module, cfg: EngineConfig, mesh: Mesh | None, pages: int, platform: str) -> Callable:
    """A jitted function that makes an empty pool of so many pages (and the scratch page) in its place."""
    kernel_pages = decode_attention.kernel_pages(platform, model.cfg, cfg.page_tokens, cfg.cache_tokens)
    create = partial(PagePool.create, model.cfg, pages + 1, cfg.page_tokens, kernel_pages=kernel_pages)
    return jax.jit(create, out_shardings=None if mesh is None else pool_sharding(mesh, bool(kernel_pages)))


def pool_sharding(mesh: Mesh, for_kernel: bool) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(HEADS) if for_kernel else PartitionSpec(None, HEADS))


def make_prefill(model: nn.Module, mesh: Mesh | None) -> Jitted[..., PagePool]:
    """`generate.prefill`, jitted: (params, pool, rows, fast) -> pool. The pool is donated: it is updated in place."""

    def prefill(params: Any, pool: PagePool, rows: generate.PrefillRows, fast: FastPool | None) -> PagePool:
        with on_mesh(mesh):
            return generate.prefill(model, params, pool, rows, fast)

    return jax.jit(prefill, donate_argnums=1)


def make_decode(model: nn.Module, mesh: Mesh | None) -> Jitted[..., tuple[PagePool, Any]]:
    """`generate.decode`, jitted: (params, pool, rows, floor, fast, steps=, truncate=) -> (pool, sampled). The pool is
    donated: it is updated in place."""

    def decode(
        params: Any,
        pool: PagePool,
        rows: generate.DecodeRows,
        floor: jax.Array,
        fast: FastPool | None,
        *,
        steps: int,
        truncate: bool,
    ):
        with on_mesh(mesh):
            return generate.decode(model, params, pool, rows, floor, fast, steps=steps, truncate=truncate)

    return jax.jit(decode, static_argnames=("steps", "truncate"), donate_argnums=1)


def make_write(
    model: nn.Module, mesh: Mesh | None, cfg: FastConfig
) -> Jitted[[Any, FastWeights, fast_write.Texts], tuple[Any, jax.Array]]:
    """`fast_write.write`, jitted: (params, fast, texts) -> (B, losses)."""

    def write(params: Any, fast: FastWeights, texts: fast_write.Texts) -> tuple[Any, jax.Array]:
        with on_mesh(mesh):
            return fast_write.write(model, params, fast, texts, cfg)

    return jax.jit(write)


def fast_pool(model: nn.Module, cfg: FastConfig, basis: Basis, mesh: Mesh | None, device: Any, slots: int) -> FastPool:
    """A pool for the fast weights of so many rows, and the zeros of rows without, in its place."""
    pool = FastPool(basis, empty_memory(model, cfg, slots + 1), cfg.scale)
    if mesh is None:
        return jax.device_put(pool, device)
    a, b = decode_shardings(mesh)
    return pool.replace(a=jax.device_put(pool.a, a), b=jax.device_put(pool.b, b))


def idle_rows(rows: int, listed: int, words: int, *, has_fast: bool = False) -> generate.DecodeRows:
    """The inputs of a decode call in which nobody samples, as numpy: for compiling its shape. has_fast: rows may carry
    fast weights."""

    def zeros(*shape: int, dtype: type = np.int32) -> np.ndarray:
        return np.zeros(shape, dtype)

    return generate.DecodeRows(
        token=zeros(rows),
        length=zeros(rows),
        count=zeros(rows),
        is_active=zeros(rows, dtype=bool),
        key_words=zeros(rows, words, dtype=np.uint32),
        temperature=zeros(rows, dtype=np.float32),
        top_k=zeros(rows),
        top_p=zeros(rows, dtype=np.float32),
        max_tokens=zeros(rows),
        min_tokens=zeros(rows),
        stop_tokens=zeros(rows, STOP_TOKENS),
        pages=zeros(listed),
        page_rows=np.full(listed, rows, np.int32),
        page_starts=zeros(listed),
        first_page=zeros(rows),
        fast=zeros(rows) if has_fast else None,
        adapter=zeros(rows),
    )


def abstract_decode(
    model: nn.Module, cfg: EngineConfig, mesh: Mesh, setup: FastSetup | None = None
) -> tuple[Callable, tuple]:
    """The decode program of all slots at full length on a mesh of any platform, and its arguments without data: to
    be lowered and compiled where no such device is."""
    platform = mesh.devices.flat[0].platform
    listed = cfg.slots * -(-cfg.cache_tokens // cfg.page_tokens)
    pages = min(listed, cfg.pool_tokens // cfg.page_tokens) if cfg.pool_tokens else listed
    kernel_pages = decode_attention.kernel_pages(platform, model.cfg, cfg.page_tokens, cfg.cache_tokens)
    pool = jax.eval_shape(partial(PagePool.create, model.cfg, pages + 1, cfg.page_tokens, kernel_pages=kernel_pages))

    whole = NamedSharding(mesh, PartitionSpec())
    rows = _placed(idle_rows(cfg.slots, listed, words=5, has_fast=setup is not None), whole)
    floor = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    decode = partial(make_decode(model, mesh).lower, steps=cfg.decode_chunk, truncate=False)
    fast = None
    if setup is not None:
        a, b = decode_shardings(mesh)
        pool_b = _placed(empty_memory(model, setup.cfg, cfg.slots + 1), b)
        fast = FastPool(_placed(setup.basis, a), pool_b, setup.cfg.scale)
    placed_pool = _placed(pool, pool_sharding(mesh, bool(kernel_pages)))
    return decode, (_abstract_weights(model, mesh), placed_pool, rows, floor, fast)


def abstract_write(model: nn.Module, mesh: Mesh, setup: FastSetup) -> tuple[Callable, tuple]:
    """The program of the largest write on a mesh of any platform, and its arguments without data."""
    whole, cfg = NamedSharding(mesh, PartitionSpec()), setup.cfg
    b = _placed(empty_memory(model, cfg, cfg.rows), whole)
    texts = _placed(pad_texts([], cfg.rows, cfg.text_tokens, cfg), whole)
    fast = FastWeights(_placed(setup.basis, whole), b, cfg.scale)
    return make_write(model, mesh, cfg).lower, (_abstract_weights(model, mesh), fast, texts)


def _placed(tree: Any, sharding: Any) -> Any:
    """Shapes of the arrays of a tree, all with one sharding, or each with its own."""
    shardings = sharding if isinstance(sharding, dict) else jax.tree.map(lambda _: sharding, tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _abstract_weights(model: nn.Module, mesh: Mesh) -> Any:
    from finemem_jax.nn.layers import abstract_params

    dtype, shardings = jnp.dtype(model.cfg.dtype), param_shardings(model, mesh, DECODE_RULES)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s), abstract_params(model), shardings
    )
