"""Causal grouped-query attention over packed rows, with or without cached keys before them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from finemem_jax.nn import cudnn, splash
from finemem_jax.nn.blockwise import blockwise_attention, piece_attention
from finemem_jax.nn.mesh import HEADS, ROWS, SEQUENCE, current_mesh, current_platform

MASKED = -1e30  # finite, so that a query that sees nothing averages instead of becoming NaN


def attention(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
    past: tuple[Array, Array, Array] | None = None,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention of each token to itself and to earlier tokens of the same segment of its row.

    `past`: keys, values `[rows, slots, kv_heads, head_dim]` and segment ids `[rows, slots]` of tokens that came before;
    a slot with segment 0 is empty. Scores and softmax in float32, matmuls in the dtype of `q`; the result has the dtype
    of `v`. Queries of padding (segment 0) attend to padding: unspecified, but finite.
    """
    return self_attention(q, k, v, segment_ids) if past is None else _attend(q, k, v, segment_ids, past)


def self_attention(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
) -> Float[Array, "rows seq heads head_dim"]:
    """`attention` without a past, by the kernel made for the platform: this is where it is chosen.

    On a mesh every device attends within its own rows and heads; nothing is exchanged. Where there are fewer kv
    heads than devices to split them over, each device picks those that its query heads share. Where devices share
    the tokens of a row, each gathers the row's keys and values and attends with its own queries.
    """
    mesh = current_mesh()
    if mesh is None:
        return _kernel(current_platform(), q)(q, k, v, segment_ids)
    if mesh.shape[SEQUENCE] > 1:
        return attention_on(mesh, _piece_kernel(current_platform(), q, mesh), q, k, v, segment_ids)
    kernel = _kernel(current_platform(), q)
    return attention_on(mesh, Kernel(lambda state, q, k, v, own, row: kernel(q, k, v, row)), q, k, v, segment_ids)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What each device runs: attend(state, q, k, v, segment ids of its queries, segment ids of the whole rows)."""

    attend: Callable
    state: Any = None
    spec: Any = None  # how the state is split over the mesh


def attention_on(
    mesh: Mesh, kernel: Kernel, q: Array, k: Array, v: Array, segment_ids: Array
) -> Float[Array, "rows seq heads head_dim"]:
    """`kernel` on every device of the mesh, with its queries and the keys and values that they need."""
    ways, heads, kv_heads = mesh.shape[HEADS], q.shape[2], k.shape[2]
    splits_kv, pieces = kv_heads % ways == 0, mesh.shape[SEQUENCE]

    def attend_here(state: Any, q: Array, k: Array, v: Array, own: Array) -> Array:
        row = own
        if pieces > 1:
            # The gradient of gathering is the sum of what every device's queries give, sent back to where it belongs.
            k, v, row = (jax.lax.all_gather(x, SEQUENCE, axis=1, tiled=True) for x in (k, v, own))
        if not splits_kv:
            here = jax.lax.axis_index(HEADS) * (heads // ways) + jnp.arange(heads // ways)
            k, v = (jnp.take(x, here // (heads // kv_heads), axis=2) for x in (k, v))
        return kernel.attend(state, q, k, v, own, row)

    by_head = PartitionSpec(ROWS, SEQUENCE, HEADS)
    of_kv = by_head if splits_kv else PartitionSpec(ROWS, SEQUENCE)
    specs = (kernel.spec, by_head, of_kv, of_kv, PartitionSpec(ROWS, SEQUENCE))
    # Not checked: the kernels' own loops and calls do not say over which axes they vary.
    return jax.shard_map(attend_here, mesh=mesh, in_specs=specs, out_specs=by_head, check_vma=False)(
        kernel.state, q, k, v, segment_ids
    )


# Tokens to a block of the XLA loop. On a CPU a block's scores stay in the core's own cache (from 16 to 192 this was
# the fastest at 192 and 384 tokens a row, by a little); elsewhere a block must be worth a kernel's start.
CPU_BLOCK, OTHER_BLOCK = 32, 512


def _kernel(platform: str, q: Array) -> Callable:
    seq, head_dim = q.shape[1], q.shape[3]
    if platform == "tpu" and splash.is_supported(seq, head_dim):
        return splash.splash_attention
    if platform == "gpu" and cudnn.is_supported(q.dtype, head_dim):
        return cudnn.cudnn_attention
    return functools.partial(blockwise_attention, block=CPU_BLOCK if platform == "cpu" else OTHER_BLOCK)


def _piece_kernel(platform: str, q: Array, mesh: Mesh) -> Kernel:
    """For devices that share rows: splash on TPU, else the XLA loop: cuDNN's mask begins at the row's start."""
    if platform == "tpu" and splash.is_supported(q.shape[1] // mesh.shape[SEQUENCE], q.shape[3]):
        return splash_of_pieces(q, mesh)
    block = CPU_BLOCK if platform == "cpu" else OTHER_BLOCK

    def attend(state: None, q: Array, k: Array, v: Array, own: Array, row: Array) -> Array:
        return piece_attention(q, k, v, row, jax.lax.axis_index(SEQUENCE) * q.shape[1], block)

    return Kernel(attend)


def splash_of_pieces(q: Float[Array, "rows seq heads head_dim"], mesh: Mesh, *, interpret: bool = False) -> Kernel:
    """Splash attention for rows whose tokens are split over the mesh; interpret as in `splash_attention`."""
    heads, pieces = q.shape[2] // mesh.shape[HEADS], mesh.shape[SEQUENCE]
    kernel = splash.make_kernel(q.shape[1], heads, pieces, interpret=interpret)
    spec = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, SEQUENCE)))
    return Kernel(splash.attend, kernel, spec)


def _attend(
    q: Array, k: Array, v: Array, segment_ids: Array, past: tuple[Array, Array, Array] | None
) -> Float[Array, "rows seq heads head_dim"]:
    rows, seq, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    # Query heads grouped by the kv head they share: keys and values are never repeated.
    q = q.reshape(rows, seq, kv_heads, heads // kv_heads, head_dim)
    order = jnp.arange(seq)
    visible = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (order[:, None] >= order[None, :])
    scores = _scores(q, k, visible)
    if past is None:
        out = _mix(jax.nn.softmax(scores, axis=-1), v)
    else:
        past_k, past_v, past_segment_ids = past
        # Every cached token precedes every new one: equality of segments is the whole mask.
        past_scores = _scores(q, past_k, segment_ids[:, :, None] == past_segment_ids[:, None, :])
        p = jax.nn.softmax(jnp.concatenate([past_scores, scores], axis=-1), axis=-1)
        split = past_k.shape[1]
        out = _mix(p[..., :split], past_v) + _mix(p[..., split:], v)
    return out.reshape(rows, seq, heads, head_dim).astype(v.dtype)


def _scores(q: Array, k: Array, visible: Array) -> Float[Array, "rows kv_heads group seq keys"]:
    # Scaled in float32: head_dim ** -0.5 of 128 is no power of two, and would round every bfloat16 query.
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.where(visible[:, None, None], scores, MASKED)


def _mix(p: Array, v: Array) -> Float[Array, "rows seq kv_heads group head_dim"]:
    return jnp.einsum("bkgqs,bskd->bqkgd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
