"""The device side of decoding: `prefill` fills pages of the cache, `decode` samples a few tokens for every row.

The host (`engine.py`) decides which request is in which row and which pages it has, and sends it along with every
call. Only the pool of pages lives on the device between calls.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from finemem_jax.decoding.fast_places import FastPool
from finemem_jax.decoding.sampling import RowSampling, completion_keys, is_stop, sample
from finemem_jax.nn.paged_cache import DecodeCache, PageCopies, PagePool, PrefillCache
from finemem_jax.nn.typed import Tree


@flax.struct.dataclass
class PrefillRows:
    """Prompts, or the parts of them that no page holds yet; right-padded."""

    tokens: Any  # [rows, seq] int32; seq is a multiple of the page
    lengths: Any  # [rows] int32: valid tokens of each
    past_pages: Any  # [rows, past pages] int32: the pages of what comes before
    past_lengths: Any  # [rows] int32: tokens in them, a multiple of the page
    copies: PageCopies  # where the rows' pages go; a page that several requests need of their own is named by each
    fast: Any = None  # [rows] int32: the fast weights of each, by number, or by place in a FastPool
    adapter: Any = None  # [rows] int32: number of the adapter they are read with, where roles have their own


@flax.struct.dataclass
class DecodeRows(Tree):
    """The requests that are sampled, one per row, and the pages they have."""

    token: Any  # [rows] int32: the last token, to be fed next
    length: Any  # [rows] int32: tokens before it, all in the cache
    count: Any  # [rows] int32: tokens sampled so far
    is_active: Any  # [rows] bool: the others are idle
    key_words: Any  # [rows, words] uint32: see `completion_keys`
    temperature: Any  # [rows] float32; 0 = greedy
    top_k: Any  # [rows] int32; 0 = off
    top_p: Any  # [rows] float32; 1 = off
    max_tokens: Any  # [rows] int32
    min_tokens: Any  # [rows] int32
    stop_tokens: Any  # [rows, stops] int32, NO_STOP where unused
    pages: Any  # [listed] int32: pages of all rows, those of a row one after the other, for all the call may reach
    page_rows: Any  # [listed] int32: whose; the number of rows where the place is unused
    page_starts: Any  # [listed] int32: place of the page's first token in its row
    first_page: Any  # [rows] int32: place of the row's first page in the list
    fast: Any = None  # [rows] int32: as in PrefillRows
    adapter: Any = None  # [rows] int32: likewise

    def sampling(self) -> RowSampling:
        return RowSampling(
            key=completion_keys(self.key_words),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_tokens=self.min_tokens,
            stop_tokens=self.stop_tokens,
        )


@flax.struct.dataclass
class Sampled:
    """What a decode call sampled: for each row the first `emitted` of its tokens are valid."""

    tokens: Any  # [steps, rows] int32
    logprobs: Any  # [steps, rows] float32
    emitted: Any  # [rows] int32
    steps: Any  # [] int32: decode steps that were run


def prefill(model: nn.Module, params: Any, pool: PagePool, rows: PrefillRows, fast: FastPool | None = None) -> PagePool:
    """The pool with the keys and values of the rows' tokens in the pages that were named for them.

    The last token of a prompt is not among them: it is the first that `decode` feeds, so that sampling is compiled
    with decoding alone and not once per prompt length.
    """
    order = jnp.broadcast_to(jnp.arange(rows.tokens.shape[1], dtype=jnp.int32), rows.tokens.shape)
    segment_ids = (order < rows.lengths[:, None]).astype(jnp.int32)
    _, new = model.apply(
        {"params": params},
        rows.tokens,
        order + rows.past_lengths[:, None],
        segment_ids,
        cache=PrefillCache(pool, rows.past_pages, rows.past_lengths),
        fast=None if fast is None else fast.rows(rows.fast),
        adapter=None if rows.adapter is None else rows.adapter[:, None],
        method="hidden_states",
    )
    return pool.write_pages(new, rows.copies)


def decode(
    model: nn.Module,
    params: Any,
    pool: PagePool,
    rows: DecodeRows,
    floor: Int[Array, ""],
    fast: FastPool | None = None,
    *,
    steps: int,
    truncate: bool,
) -> tuple[PagePool, Sampled]:
    """Up to `steps` tokens for every active row, without a word to the host.

    Ends early when no more than `floor` rows are active: 0 to run them all out, more when others wait for a row.
    """
    count = len(rows.token)
    sampling = rows.sampling()
    carried = None if fast is None else fast.rows(rows.fast)

    def is_wanted(state: tuple) -> Array:
        _, rows, sampled = state
        return (sampled.steps < steps) & (jnp.sum(rows.is_active) > floor)

    def one_token(state: tuple) -> tuple:
        pool, rows, sampled = state
        active = rows.is_active.astype(jnp.int32)
        hidden, cache = model.apply(
            {"params": params},
            rows.token[:, None],
            rows.length[:, None],
            active[:, None],
            cache=DecodeCache(
                pool, rows.pages, rows.page_rows, rows.page_starts, rows.first_page, rows.length, rows.is_active
            ),
            fast=carried,
            adapter=None if rows.adapter is None else rows.adapter[:, None],
            method="hidden_states",
        )
        logits = model.apply({"params": params}, hidden, method="unembed")[:, 0]
        token, logprobs = sample(logits, sampling, rows.count, truncate=truncate)
        sampled = Sampled(
            tokens=sampled.tokens.at[sampled.steps].set(token),
            logprobs=sampled.logprobs.at[sampled.steps].set(logprobs),
            emitted=sampled.emitted + active,
            steps=sampled.steps + 1,
        )
        sampled_tokens = rows.count + active
        is_done = is_stop(token, rows.stop_tokens) | (sampled_tokens >= rows.max_tokens)
        rows = rows.replace(
            token=jnp.where(rows.is_active, token, rows.token),
            length=rows.length + active,
            count=sampled_tokens,
            is_active=rows.is_active & ~is_done,
        )
        return cache.pool, rows, sampled

    nothing = Sampled(
        tokens=jnp.zeros((steps, count), jnp.int32),
        logprobs=jnp.zeros((steps, count), jnp.float32),
        emitted=jnp.zeros((count,), jnp.int32),
        steps=jnp.zeros((), jnp.int32),
    )
    pool, _, sampled = jax.lax.while_loop(is_wanted, one_token, (pool, rows, nothing))
    return pool, sampled
