"""Attention over packed rows in plain XLA, one block of queries against one block of keys at a time.

No `[seq, seq]` array exists, in the backward pass neither: it recomputes each block's probabilities from the
log-sum-exp that the forward pass keeps (arXiv 2205.14135). Blocks that causality or the segments rule out are not
computed: rows packed with short sequences cost what their sequences cost.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MASKED = -1e30  # finite, so that a block in which a query sees nothing adds zeros and not NaN


def blockwise_attention(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
    block: int,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention of each token to itself and to earlier tokens of its segment, `block` tokens at a time.

    A segment is one run of equal ids. Scores and softmax in float32, matmuls in the dtype of `q`, the result in that
    of `v`. Rows are worked on together, so a row costs as much as the one with the longest segments beside it.
    """
    rows, seq, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    padding = -seq % block
    if padding:
        q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, padding)))
    blocks = (seq + padding) // block
    # The block axis first: a block is one piece of memory. Query heads stand beside the kv head they share.
    q = q.reshape(rows, blocks, block, kv_heads, heads // kv_heads, head_dim).transpose(1, 0, 3, 4, 2, 5)
    k, v = (x.reshape(rows, blocks, block, kv_heads, head_dim).transpose(1, 0, 3, 2, 4) for x in (k, v))
    segments = segment_ids.reshape(rows, blocks, block).swapaxes(0, 1)
    out = _attend(q, k, v, segments, _first_blocks(segment_ids, block))
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(rows, blocks * block, heads, head_dim)
    return out[:, :seq].astype(v.dtype)


def _first_blocks(segment_ids: Int[Array, "rows seq"], block: int) -> Int[Array, "blocks"]:
    """For each block of queries the first block of keys that one of them, in any row, may see."""
    rows, seq = segment_ids.shape
    order = jnp.arange(seq)
    begins = jnp.concatenate([jnp.ones((rows, 1), bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
    begins |= segment_ids == 0  # padding need not see anything before its own block
    first_key = jax.lax.cummax(jnp.where(begins, order, 0), axis=1)
    return jnp.min(first_key[:, ::block], axis=0) // block


def _visible(segments: Array, i: Array, j: Array) -> Array:
    """Which keys of block j the queries of block i see: [rows, 1, 1, queries, keys]."""
    order = jnp.arange(segments.shape[-1])
    causal = (i - j) * len(order) + order[:, None] >= order[None, :]
    return ((segments[i][:, :, None] == segments[j][:, None, :]) & causal)[:, None, None]


def _scores(q: Array, k: Array, visible: Array) -> Float[Array, "rows kv_heads group queries keys"]:
    # Scaled in float32: head_dim ** -0.5 of 128 is no power of two, and would round every bfloat16 query.
    scores = _dot("bkgqd,bksd->bkgqs", q, k) * q.shape[-1] ** -0.5
    return jnp.where(visible, scores, MASKED)


_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, segments: Array, first: Array) -> Array:
    """q [blocks, rows, kv_heads, group, block, head_dim], k and v without the group, segments [blocks, rows, block]."""
    return _attend_forward(q, k, v, segments, first)[0]


def _attend_forward(q: Array, k: Array, v: Array, segments: Array, first: Array):
    def query_block(index_and_q: tuple[Array, Array]) -> tuple[Array, Array]:
        i, q_i = index_and_q

        def key_block(j: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            largest, total, mixed = sums
            scores = _scores(q_i, k[j], _visible(segments, i, j))
            new_largest = jnp.maximum(largest, scores.max(-1, keepdims=True))
            shrink = jnp.exp(largest - new_largest)
            p = jnp.exp(scores - new_largest)
            mixed = mixed * shrink + _dot("bkgqs,bksd->bkgqd", p.astype(v.dtype), v[j])
            return new_largest, total * shrink + p.sum(-1, keepdims=True), mixed

        one = jnp.zeros((*q_i.shape[:-1], 1), jnp.float32)
        start = (one + MASKED, one, jnp.zeros(q_i.shape, jnp.float32))
        largest, total, mixed = jax.lax.fori_loop(first[i], i + 1, key_block, start)
        return (mixed / total).astype(v.dtype), largest + jnp.log(total)

    out, log_total = jax.lax.map(query_block, (jnp.arange(len(q)), q))
    return out, (q, k, v, segments, first, out, log_total)


def _attend_backward(saved: tuple, d_out: Array):
    q, k, v, segments, first, out, log_total = saved
    # What the softmax takes off every row of scores' gradient: Σ_s p_s (dp_s) = out · d_out.
    taken = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), -1, keepdims=True)
    scale = q.shape[-1] ** -0.5

    def query_block(sums: tuple[Array, Array], block: tuple) -> tuple[tuple[Array, Array], Array]:
        i, q_i, d_out_i, log_total_i, taken_i = block

        def key_block(j: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_i, dk, dv = sums
            p = jnp.exp(_scores(q_i, k[j], _visible(segments, i, j)) - log_total_i)
            dv = dv.at[j].add(_dot("bkgqs,bkgqd->bksd", p.astype(v.dtype), d_out_i))
            d_scores = (p * (_dot("bkgqd,bksd->bkgqs", d_out_i, v[j]) - taken_i) * scale).astype(q.dtype)
            dk = dk.at[j].add(_dot("bkgqs,bkgqd->bksd", d_scores, q_i))
            return dq_i + _dot("bkgqs,bksd->bkgqd", d_scores, k[j]), dk, dv

        dq_i, dk, dv = jax.lax.fori_loop(first[i], i + 1, key_block, (jnp.zeros(q_i.shape, jnp.float32), *sums))
        return (dk, dv), dq_i.astype(q.dtype)

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    blocks = (jnp.arange(len(q)), q, d_out, log_total, taken)
    (dk, dv), dq = jax.lax.scan(query_block, zeros, blocks)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None, None


_attend.defvjp(_attend_forward, _attend_backward)
