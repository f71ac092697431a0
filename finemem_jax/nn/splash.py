"""Splash attention: the Pallas kernel for TPU. Blocks above the diagonal are never loaded, segments are masked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    CausalMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)
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
    seq, heads, head_dim = q.shape[1:]
    block = max(b for b in range(LANES, min(seq, MAX_BLOCK) + 1, LANES) if seq % b == 0)
    sizes = BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    mask = MultiHeadMask([CausalMask((seq, seq))] * heads)
    kernel = make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)

    def one_row(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
        return kernel(q, k, v, segment_ids=SegmentIds(segment_ids, segment_ids))

    # The kernel does not scale. In float32: head_dim ** -0.5 of 128 is no power of two, and would round every query
    # of bfloat16 twice.
    q = (q.astype(jnp.float32) * head_dim**-0.5).astype(q.dtype)
    out = jax.vmap(one_row)(*(x.swapaxes(1, 2) for x in (q, k, v)), segment_ids)
    return out.swapaxes(1, 2).astype(v.dtype)
