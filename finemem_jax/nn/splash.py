"""Splash attention: the Pallas kernel for TPU. Blocks above the diagonal are never loaded, segments are masked."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    CausalMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import SplashAttentionKernel
from jaxtyping import Array, Float, Int

LANES = 128  # a block is a multiple of the vector registers' width
MAX_BLOCK = 512


def is_supported(seq: int, head_dim: int) -> bool:
    """Whether the kernel takes rows of this length and heads of this size."""
    return seq % LANES == 0 and head_dim % LANES == 0


def splash_attention(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
    *,
    interpret: bool = False,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention of each token to itself and to earlier tokens of its segment.

    interpret: run the kernel's steps on any platform, slowly, for tests.
    """
    return attend(make_kernel(*q.shape[1:3], interpret=interpret), q, k, v, segment_ids, segment_ids)


def make_kernel(seq: int, heads: int, pieces: int = 1, *, interpret: bool = False) -> SplashAttentionKernel:
    """The kernel for rows of `seq` tokens whose queries are split over so many devices.

    It holds what each block of queries sees as arrays: with pieces, `kernel.manual_sharding_spec` says how shard_map
    must split them.
    """
    piece = seq // pieces
    block = max(b for b in range(LANES, min(piece, MAX_BLOCK) + 1, LANES) if piece % b == 0)
    sizes = BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    mask = MultiHeadMask([CausalMask((seq, seq))] * heads)
    return make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=pieces, interpret=interpret)


def attend(
    kernel: Callable,
    q: Float[Array, "rows piece heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    q_segments: Int[Array, "rows piece"],
    k_segments: Int[Array, "rows seq"],
) -> Float[Array, "rows piece heads head_dim"]:
    """Attention of the queries of a piece of each row, the one that the kernel (or its part) was made for."""

    def one_row(q: Array, k: Array, v: Array, q_segments: Array, k_segments: Array) -> Array:
        return kernel(q, k, v, segment_ids=SegmentIds(q_segments, k_segments))

    # The kernel does not scale. In float32: head_dim ** -0.5 of 128 is no power of two, and would round every query
    # of bfloat16 twice.
    q = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    out = jax.vmap(one_row)(*(x.swapaxes(1, 2) for x in (q, k, v)), q_segments, k_segments)
    return out.swapaxes(1, 2).astype(v.dtype)
