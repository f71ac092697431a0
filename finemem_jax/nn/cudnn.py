"""The fused attention of cuDNN, for NVIDIA GPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MAX_HEAD_DIM = 128


def is_supported(dtype: jnp.dtype, head_dim: int) -> bool:
    """Whether cuDNN takes heads of this size and type: half precision only."""
    return dtype in (jnp.bfloat16, jnp.float16) and head_dim <= MAX_HEAD_DIM and head_dim % 8 == 0


def cudnn_attention(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention of each token to itself and to earlier tokens of its segment.

    Scores are never kept; the segments go in as a mask [rows, 1, seq, seq] that the heads share.
    """
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=same, is_causal=True, implementation="cudnn")
