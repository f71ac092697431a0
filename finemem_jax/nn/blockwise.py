"""Attention over packed rows in plain XLA, one block of queries against one block of keys at a time.

No `[seq, seq]` array exists, in the backward pass neither: it recomputes each block's probabilities from the
log-sum-exp that the forward pass keeps (arXiv 2205.14135). Blocks that causality or the segments rule out are not
computed: rows packed with short sequences cost what their sequences cost.

A segment may go on from another one, its prefix: its id is `own + prefix * PREFIX`, and its tokens see the prefix's as
well as their own. In a row a prefix stands before all segments that go on from it, with nothing else between them.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PREFIX = 1 << 16  # ids of segments and of their prefixes are below it
MASKED = -1e30  # finite, so that a block in which a query sees nothing adds zeros and not NaN


def blockwise_attention(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
    block: int,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention of each token to itself and to earlier tokens of its segment and of its prefix, `block` tokens
    at a time.

    A segment is one run of equal ids. Scores and softmax in float32, matmuls in the dtype of `q`, the result in that
    of `v`. Rows are worked on together, so a row costs as much as the one with the longest segments beside it.
    """
    return piece_attention(q, k, v, segment_ids, 0, block)


def piece_attention(
    q: Float[Array, "rows piece heads head_dim"],
    k: Float[Array, "rows seq kv_heads head_dim"],
    v: Float[Array, "rows seq kv_heads head_dim"],
    segment_ids: Int[Array, "rows seq"],
    start: int | Int[Array, ""],
    block: int,
) -> Float[Array, "rows piece heads head_dim"]:
    """`blockwise_attention` of the queries of the tokens from `start` on, a piece of each row."""
    rows, _, kv_heads, head_dim = k.shape
    piece, heads = q.shape[1:3]
    q_segments = jax.lax.dynamic_slice_in_dim(segment_ids, start, piece, axis=1)
    ranges = _key_blocks(segment_ids, start, piece, block)
    q, q_segments = (_in_blocks(x, block) for x in (q, q_segments))
    k, v, segments = (_in_blocks(x, block) for x in (k, v, segment_ids))
    # Query heads stand beside the kv head they share.
    q = q.reshape(len(q), rows, block, kv_heads, heads // kv_heads, head_dim).transpose(0, 1, 3, 4, 2, 5)
    k, v = (x.transpose(0, 1, 3, 2, 4) for x in (k, v))
    out = _attend(q, k, v, _Order(q_segments, segments, *ranges, jnp.asarray(start, jnp.int32)))
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(rows, -1, heads, head_dim)
    return out[:, :piece].astype(v.dtype)


def _in_blocks(x: Array, block: int) -> Array:
    """[rows, seq, …] as [blocks, rows, block, …], the last filled up with zeros: a block is one piece of memory."""
    rows, seq = x.shape[:2]
    x = jnp.pad(x, ((0, 0), (0, -seq % block), *((0, 0),) * (x.ndim - 2)))
    return x.reshape(rows, -1, block, *x.shape[2:]).swapaxes(0, 1)


@flax.struct.dataclass
class _Order:
    """Which keys which queries see."""

    q_segments: Any  # [query blocks, rows, block] int32
    k_segments: Any  # [key blocks, rows, block] int32
    first: Any  # [query blocks] int32: the first block of keys of the segments of the queries, in any row
    prefix: Any  # [query blocks] int32: the first block of their prefixes
    prefixes: Any  # [query blocks] int32: how many blocks before `first` hold their prefixes
    start: Any  # [] int32: place in the row of the first query

    def count(self, i: Array) -> Array:
        """How many blocks of keys the queries of block i may see."""
        block = self.q_segments.shape[-1]
        end = jnp.minimum((self.start + (i + 1) * block - 1) // block + 1, len(self.k_segments))
        return self.prefixes[i] + end - self.first[i]

    def key_block(self, i: Array, n: Array) -> Array:
        """The n-th of them."""
        return jnp.where(n < self.prefixes[i], self.prefix[i] + n, self.first[i] + n - self.prefixes[i])

    def visible(self, i: Array, j: Array) -> Array:
        """Which keys of block j the queries of block i see: [rows, 1, 1, queries, keys]."""
        order = jnp.arange(self.q_segments.shape[-1])
        causal = self.start + (i - j) * len(order) + order[:, None] >= order[None, :]
        q_segments, k_segments = self.q_segments[i][:, :, None], self.k_segments[j][:, None, :]
        prefixes = jnp.where(q_segments < PREFIX, -1, q_segments // PREFIX)
        return (((q_segments == k_segments) | (prefixes == k_segments)) & causal)[:, None, None]


def _key_blocks(
    segment_ids: Int[Array, "rows seq"], start: int | Array, piece: int, block: int
) -> tuple[Int[Array, "blocks"], Int[Array, "blocks"], Int[Array, "blocks"]]:
    """For each block of queries, over all rows: the first block of keys of their own segments; the first block of
    their prefixes; and the number of blocks from there on that hold prefixes and come before their own."""
    rows, seq = segment_ids.shape
    order = jnp.arange(seq)
    begins = jnp.concatenate([jnp.ones((rows, 1), bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
    goes_on = segment_ids >= PREFIX
    after = jnp.concatenate([jnp.zeros((rows, 1), bool), goes_on[:, 1:] & ~goes_on[:, :-1]], axis=1)

    def last(places: Array) -> Array:
        return jax.lax.cummax(jnp.where(places, order, 0), axis=1)

    own = last(begins | (segment_ids == 0))  # padding need not see anything before its own block
    prefix = jnp.where(goes_on, last(begins & ~goes_on), seq)
    prefix_end = jnp.where(goes_on, last(after), 0)
    own, prefix, prefix_end = (jax.lax.dynamic_slice_in_dim(x, start, piece, axis=1) for x in (own, prefix, prefix_end))
    first = jnp.min(own[:, ::block], axis=0) // block
    filled = ((0, 0), (0, -piece % block))
    prefix = jnp.pad(prefix, filled, constant_values=seq).reshape(rows, -1, block).min((0, 2)) // block
    prefix_end = jnp.pad(prefix_end, filled).reshape(rows, -1, block).max((0, 2))
    return first, prefix, jnp.maximum(jnp.minimum(-(-prefix_end // block), first) - prefix, 0)


def _scores(q: Array, k: Array, visible: Array) -> Float[Array, "rows kv_heads group queries keys"]:
    # Scaled in float32: head_dim ** -0.5 of 128 is no power of two, and would round every bfloat16 query.
    scores = _dot("bkgqd,bksd->bkgqs", q, k) * q.shape[-1] ** -0.5
    return jnp.where(visible, scores, MASKED)


_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, order: _Order) -> Array:
    """q [query blocks, rows, kv_heads, group, block, head_dim]; k and v, by key blocks, without the group."""
    return _attend_forward(q, k, v, order)[0]


def _attend_forward(q: Array, k: Array, v: Array, order: _Order):
    def query_block(index_and_q: tuple[Array, Array]) -> tuple[Array, Array]:
        i, q_i = index_and_q

        def key_block(n: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            j = order.key_block(i, n)
            largest, total, mixed = sums
            scores = _scores(q_i, k[j], order.visible(i, j))
            new_largest = jnp.maximum(largest, scores.max(-1, keepdims=True))
            shrink = jnp.exp(largest - new_largest)
            p = jnp.exp(scores - new_largest)
            mixed = mixed * shrink + _dot("bkgqs,bksd->bkgqd", p.astype(v.dtype), v[j])
            return new_largest, total * shrink + p.sum(-1, keepdims=True), mixed

        one = jnp.zeros((*q_i.shape[:-1], 1), jnp.float32)
        start = (one + MASKED, one, jnp.zeros(q_i.shape, jnp.float32))
        largest, total, mixed = jax.lax.fori_loop(0, order.count(i), key_block, start)
        return (mixed / total).astype(v.dtype), largest + jnp.log(total)

    out, log_total = jax.lax.map(query_block, (jnp.arange(len(q)), q))
    return out, (q, k, v, order, out, log_total)


def _attend_backward(saved: tuple, d_out: Array):
    q, k, v, order, out, log_total = saved
    # What the softmax takes off every row of scores' gradient: Σ_s p_s (dp_s) = out · d_out.
    taken = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), -1, keepdims=True)
    scale = q.shape[-1] ** -0.5

    def query_block(sums: tuple[Array, Array], block: tuple) -> tuple[tuple[Array, Array], Array]:
        i, q_i, d_out_i, log_total_i, taken_i = block

        def key_block(n: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            j = order.key_block(i, n)
            dq_i, dk, dv = sums
            p = jnp.exp(_scores(q_i, k[j], order.visible(i, j)) - log_total_i)
            dv = dv.at[j].add(_dot("bkgqs,bkgqd->bksd", p.astype(v.dtype), d_out_i))
            d_scores = (p * (_dot("bkgqd,bksd->bkgqs", d_out_i, v[j]) - taken_i) * scale).astype(q.dtype)
            dk = dk.at[j].add(_dot("bkgqs,bkgqd->bksd", d_scores, q_i))
            return dq_i + _dot("bkgqs,bksd->bkgqd", d_scores, k[j]), dk, dv

        start = (jnp.zeros(q_i.shape, jnp.float32), *sums)
        dq_i, dk, dv = jax.lax.fori_loop(0, order.count(i), key_block, start)
        return (dk, dv), dq_i.astype(q.dtype)

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    blocks = (jnp.arange(len(q)), q, d_out, log_total, taken)
    (dk, dv), dq = jax.lax.scan(query_block, zeros, blocks)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)
