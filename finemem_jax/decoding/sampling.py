"""One token per row from its logits, by rules and random keys that belong to the row alone.

A row's draw depends on its own key and its own count of tokens, never on its slot, its neighbours or their number.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

from finemem_jax.rl.logprobs import logprobs_of

STOP_TOKENS = 4  # stop tokens per request, at most
NO_STOP = -1  # fills the unused places of `stop_tokens`; no token has this id


@flax.struct.dataclass
class RowSampling:
    """How each row is sampled. Mirrors `types.Sampling`, one entry per row."""

    key: Any  # [rows, 2] uint32: raw threefry key of the completion
    temperature: Any  # [rows] float32; 0 = greedy
    top_k: Any  # [rows] int32; 0 = off
    top_p: Any  # [rows] float32; 1 = off
    min_tokens: Any  # [rows] int32
    stop_tokens: Any  # [rows, stops] int32, NO_STOP where unused


def completion_keys(words: UInt[Array, "rows words"]) -> UInt[Array, "rows 2"]:
    """Key of each completion: the words folded one after the other into a fixed key."""

    def fold(row: Array) -> Array:
        key = jax.random.key(0, impl="threefry2x32")
        for word in row:
            key = jax.random.fold_in(key, word)
        return jax.random.key_data(key)

    return jax.vmap(fold)(words)


def sample(
    logits: Float[Array, "rows vocab"], rows: RowSampling, count: Int[Array, "rows"], *, truncate: bool
) -> tuple[Int[Array, "rows"], Float[Array, "rows"]]:
    """The next token of each row and its log-probability: tempered, never truncated, float32.

    count: tokens the row has so far; the draw uses the row's key with the count folded in. Greedy rows
    (temperature 0) report log-probabilities at temperature 1.
    truncate: static; False promises that every row has top_k and top_p off and saves a sort of the vocabulary.
    """
    temperature = jnp.where(rows.temperature > 0, rows.temperature, 1.0)
    allowed = logits.astype(jnp.float32) / temperature[:, None]
    allowed = _without_stops(allowed, rows.stop_tokens, count < rows.min_tokens)
    if truncate:
        allowed = _truncated(allowed, rows.top_k, rows.top_p)
    uniforms = jax.vmap(_uniforms)(rows.key, count)
    tokens = jnp.where(rows.temperature > 0, _drawn(allowed, uniforms), _first_best(allowed))
    return tokens, logprobs_of(logits, tokens, temperature)


def is_stop(tokens: Int[Array, "rows"], stop_tokens: Int[Array, "rows stops"]) -> Bool[Array, "rows"]:
    return jnp.any(tokens[:, None] == stop_tokens, axis=-1)


def _first_best(scores: Array) -> Array:
    """argmax over the last axis as two plain reductions, which XLA vectorises; its own argmax it does not on CPU."""
    vocab = scores.shape[-1]
    is_best = scores == jnp.max(scores, axis=-1, keepdims=True)
    return jnp.minimum(jnp.min(jnp.where(is_best, jnp.arange(vocab), vocab), axis=-1), vocab - 1)


def _uniforms(key: Array, count: Array) -> Array:
    """The two numbers [2] in [0, 1) of a row's draw number `count`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), count)
    return jax.random.uniform(key, (2,), jnp.float32)


def _drawn(scores: Array, uniforms: Array) -> Array:
    """Tokens [rows] drawn from softmax(scores [rows, vocab]): first a block of the vocabulary, then one of its tokens.

    Two numbers per draw where Gumbel noise would take one per token of the vocabulary. Each has 23 bits, so that
    a token of a rare block keeps its share of it, which one number over the whole vocabulary could not resolve.
    """
    rows, vocab = scores.shape
    block = 2 ** math.ceil(math.log2(vocab) / 2)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.pad(weights, ((0, 0), (0, -vocab % block))).reshape(rows, -1, block)
    chosen = _inverse(jnp.sum(weights, axis=-1), uniforms[:, 0])
    inside = jnp.take_along_axis(weights, chosen[:, None, None], axis=1)[:, 0]
    # NaN scores end the run in the engine; until then every token must be one of the vocabulary.
    return jnp.minimum(chosen * block + _inverse(inside, uniforms[:, 1]), vocab - 1)


def _inverse(weights: Array, uniforms: Array) -> Array:
    """For each row the first index at which the running sum of its weights exceeds its uniform number's share of
    their total; never an index of weight 0, however the sums are rounded."""
    size = weights.shape[-1]
    sums = jnp.cumsum(weights, axis=-1)
    is_reached = (sums > uniforms[:, None] * sums[:, -1:]) & (weights > 0)
    last = jnp.max(jnp.where(weights > 0, jnp.arange(size), 0), axis=-1)
    return jnp.minimum(jnp.min(jnp.where(is_reached, jnp.arange(size), size), axis=-1), last).astype(jnp.int32)


def _without_stops(scores: Array, stop_tokens: Array, too_short: Array) -> Array:
    """Scores [rows, vocab] with a row's stop tokens at -inf where the row is too short to stop."""
    is_stop_column = jnp.any(jnp.arange(scores.shape[-1]) == stop_tokens[:, :, None], axis=1)
    return jnp.where(too_short[:, None] & is_stop_column, -jnp.inf, scores)


def _truncated(scores: Array, top_k: Array, top_p: Array) -> Array:
    """Scores [rows, vocab] at -inf outside the row's top_k tokens and outside its nucleus.

    The nucleus is the smallest set of most likely tokens whose probability reaches top_p, taken after top_k:
    for probabilities .5 .3 .2, top_p .5 keeps one token, top_p .6 keeps two.
    """
    vocab = scores.shape[-1]
    order = jnp.argsort(-scores, axis=-1, stable=True)
    best_first = jnp.take_along_axis(scores, order, axis=-1)
    ranks = jnp.arange(vocab)[None, :]
    best_first = jnp.where((top_k[:, None] > 0) & (ranks >= top_k[:, None]), -jnp.inf, best_first)
    probabilities = jax.nn.softmax(best_first, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    best_first = jnp.where((top_p[:, None] < 1) & (before >= top_p[:, None]), -jnp.inf, best_first)
    return jnp.zeros_like(scores).at[jnp.arange(len(scores))[:, None], order].set(best_first)
