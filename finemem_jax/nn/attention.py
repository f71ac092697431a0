"""Causal grouped-query attention over packed rows, with or without cached keys before them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MASKED = -1e30  # finite, so that a query that sees nothing averages instead of becoming NaN


def attention(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
    past: tuple[Array, Array, Array] | None = None,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention of each token to itself and to earlier tokens of the same segment of its row.

    `past` = (keys, values, segment_ids) of tokens that came before, `[rows, past, ...]`; a slot with segment 0
    is empty. Scores and softmax in float32, matmuls in the dtype of `q`; the result has the dtype of `q`.
    Queries of padding (segment 0) attend to padding: unspecified, but finite.
    """
    rows, seq, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    # Query heads grouped by the kv head they share: keys and values are never repeated.
    q = (q * head_dim**-0.5).reshape(rows, seq, kv_heads, heads // kv_heads, head_dim)
    order = jnp.arange(seq)
    visible = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (order[:, None] >= order[None, :])
    scores = _scores(q, k, visible)
    if past is None or past[0].shape[1] == 0:
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
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q, k, preferred_element_type=jnp.float32)
    return jnp.where(visible[:, None, None], scores, MASKED)


def _mix(p: Array, v: Array) -> Float[Array, "rows seq kv_heads group head_dim"]:
    return jnp.einsum("bkgqs,bskd->bqkgd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
