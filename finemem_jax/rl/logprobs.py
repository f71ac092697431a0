"""Log-probabilities of given tokens: the one definition that sampler, reference and loss share.

Tempered, never truncated, float32. `logprobs[b, t]` is the log-probability of `tokens[b, t]` given the tokens
before it in the same segment; it is 0 at a segment's first token and on padding, which nothing predicts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from finemem_jax.nn.fast_weights import FastWeights
from finemem_jax.nn.mesh import piece_rows, whole_rows


def logprobs_of(
    logits: Float[Array, "*batch vocab"],
    tokens: Int[Array, "*batch"],
    temperature: float | Float[Array, "*#batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """log softmax(logits / temperature) at `tokens`, in float32. The temperature is above 0."""
    scaled = _scaled(logits, temperature)
    # Picked by comparison: of a vocabulary split over devices each looks at its part; an index would gather it all.
    chosen = jnp.sum(jnp.where(jnp.arange(scaled.shape[-1]) == tokens[..., None], scaled, 0.0), axis=-1)
    return chosen - jnp.log(jnp.sum(jnp.exp(scaled), axis=-1))


def entropy_of(
    logits: Float[Array, "*batch vocab"], temperature: float | Float[Array, "*#batch"] = 1.0
) -> Float[Array, "*batch"]:
    """Entropy of softmax(logits / temperature) in nats, in float32."""
    scaled = _scaled(logits, temperature)
    weights = jnp.exp(scaled)
    total = jnp.sum(weights, axis=-1)
    return jnp.log(total) - jnp.sum(weights * scaled, axis=-1) / total


def _scaled(logits: Array, temperature: float | Array) -> Array:
    scaled = logits.astype(jnp.float32) / jnp.asarray(temperature, jnp.float32)[..., None]
    # Relative to the largest: the difference of two large numbers would lose the digits that count.
    return scaled - jax.lax.stop_gradient(jnp.max(scaled, axis=-1, keepdims=True))


def token_logprobs(
    model: nn.Module,
    params: Any,
    tokens: Int[Array, "rows seq"],
    positions: Int[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"],
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    counted: Bool[Array, "rows seq"] | None = None,
    fast: FastWeights | None = None,
    adapter: Int[Array, "rows seq"] | None = None,
) -> Float[Array, "rows seq"]:
    """Log-probability of every token given the ones before it in its segment; column 0 is 0.

    counted: which tokens are wanted, all when None; the others are 0, and the output head is not computed for them.
    fast: what the rows carry beside the parameters. adapter: whose reads each token, where roles have their own.
    The logits of `chunk` tokens of each row exist at a time, in the backward pass too: with a vocabulary of 151,936
    the logits of a whole batch would need more memory than the model.
    """
    head = _Head(model, float(temperature), chunk, has_entropy=False)
    return _over_wanted(head, params, tokens, positions, segment_ids, counted, fast, adapter)[0]


def token_logprobs_and_entropies(
    model: nn.Module,
    params: Any,
    tokens: Int[Array, "rows seq"],
    positions: Int[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"],
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    counted: Bool[Array, "rows seq"] | None = None,
    fast: FastWeights | None = None,
    adapter: Int[Array, "rows seq"] | None = None,
) -> tuple[Float[Array, "rows seq"], Float[Array, "rows seq"]]:
    """`token_logprobs`, and the entropy in nats of the distribution each token was drawn from, without a gradient."""
    head = _Head(model, float(temperature), chunk, has_entropy=True)
    return _over_wanted(head, params, tokens, positions, segment_ids, counted, fast, adapter)


def logprobs_of_hidden(
    model: nn.Module,
    params: Any,
    hidden: Float[Array, "rows seq embed"],
    tokens: Int[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"],
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    counted: Bool[Array, "rows seq"] | None = None,
) -> Float[Array, "rows seq"]:
    """`token_logprobs` from the hidden states that the model made of the tokens."""
    return _of_hidden(_Head(model, float(temperature), chunk, False), params, hidden, tokens, segment_ids, counted)[0]


# --------------------------------------------------------------------------------------------------------------
# The head over the wanted tokens, some at a time
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Head:
    """What is measured, and how."""

    model: nn.Module
    temperature: float
    chunk: int
    has_entropy: bool

    def __call__(self, params: Any, hidden: Array, tokens: Array) -> tuple[Array, Array]:
        """Log-probabilities of `tokens` [rows, chunk] and, where wanted, entropies."""
        logits = self.model.apply({"params": params}, hidden, method="unembed")
        logprobs = logprobs_of(logits, tokens, self.temperature)
        if not self.has_entropy:
            return logprobs, jnp.zeros_like(logprobs)
        return logprobs, jax.lax.stop_gradient(entropy_of(logits, self.temperature))


@flax.struct.dataclass
class _Wanted:
    """The columns of each row that predict a wanted token, moved to its front."""

    tokens: Any  # [rows, places] int32: the token predicted, of the next column
    source: Any  # [rows, places] int32: the column whose hidden state predicts it
    place: Any  # [rows, seq] int32: where each column went; -1 for those that predict none
    chunks: Any  # [] int32: chunks that hold any


def _over_wanted(
    head: _Head,
    params: Any,
    tokens: Array,
    positions: Array,
    segment_ids: Array,
    counted: Array | None,
    fast: FastWeights | None,
    adapter: Array | None,
) -> tuple[Array, Array]:
    tokens, positions, segment_ids = (jnp.asarray(x) for x in (tokens, positions, segment_ids))
    beside = {"fast": fast, "adapter": adapter}
    hidden = head.model.apply({"params": params}, tokens, positions, segment_ids, **beside, method="hidden_states")
    return _of_hidden(head, params, hidden, tokens, segment_ids, counted)


def _of_hidden(
    head: _Head, params: Any, hidden: Array, tokens: Array, segment_ids: Array, counted: Array | None
) -> tuple[Array, Array]:
    rows, seq = tokens.shape
    if seq == 1:
        return jnp.zeros((rows, 1)), jnp.zeros((rows, 1))
    is_wanted = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
    if counted is not None:
        is_wanted &= counted[:, 1:]
    # Column t is where token t + 1 is predicted. Where devices share a row, each does its own columns.
    predicted, is_wanted = (jnp.pad(x, ((0, 0), (0, 1))) for x in (tokens[:, 1:], is_wanted))
    hidden, predicted, is_wanted = map(piece_rows, (hidden, predicted, is_wanted))
    head = dataclasses.replace(head, chunk=min(head.chunk, seq - 1, is_wanted.shape[1]))
    measured = _measure(head, head.model.head_params(params), hidden, _wanted(predicted, is_wanted, head.chunk))
    return tuple(jnp.pad(whole_rows(x)[:, :-1], ((0, 0), (1, 0))) for x in measured)


def _wanted(tokens: Array, is_wanted: Array, chunk: int) -> _Wanted:
    rows, seq = tokens.shape
    place = jnp.where(is_wanted, jnp.cumsum(is_wanted, axis=1, dtype=jnp.int32) - 1, -1)
    row, column = (jnp.broadcast_to(x, (rows, seq)) for x in (jnp.arange(rows)[:, None], jnp.arange(seq)))
    places = -(-seq // chunk) * chunk
    source = jnp.zeros((rows, places), jnp.int32)  # places that stay empty measure some token, which nothing reads
    source = source.at[row, jnp.where(is_wanted, place, places)].set(column, mode="drop")
    return _Wanted(
        tokens=jnp.take_along_axis(tokens, source, axis=1),
        source=source,
        place=place,
        chunks=-(-jnp.max(jnp.sum(is_wanted, axis=1)) // chunk),
    )


def _chunk(head: _Head, hidden: Array, wanted: _Wanted, index: Array) -> tuple[Array, Array]:
    """Hidden states [rows, chunk, embed] and tokens [rows, chunk] of one chunk."""
    source, tokens = (
        jax.lax.dynamic_slice_in_dim(x, index * head.chunk, head.chunk, axis=1) for x in (wanted.source, wanted.tokens)
    )
    return jnp.take_along_axis(hidden, source[..., None], axis=1), tokens


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _measure(head: _Head, params: Any, hidden: Array, wanted: _Wanted) -> tuple[Array, Array]:
    """Log-probabilities and entropies [rows, seq] of the wanted tokens, 0 elsewhere.

    Only as many chunks are computed as hold a wanted token. JAX does not differentiate a loop whose length it does
    not know; hence the gradient below.
    """

    def measure(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        values = head(params, *_chunk(head, hidden, wanted, index))
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=index * head.chunk, axis=1)
        return tuple(put(old, new) for old, new in zip(found, values, strict=True))

    zeros = jnp.zeros(wanted.tokens.shape, jnp.float32)
    found = jax.lax.fori_loop(0, wanted.chunks, measure, (zeros, zeros))
    return tuple(_back_in_row(values, wanted.place) for values in found)


def _measure_forward(head: _Head, params: Any, hidden: Array, wanted: _Wanted):
    return _measure(head, params, hidden, wanted), (params, hidden, wanted)


def _measure_backward(head: _Head, saved: tuple, gradient: tuple[Array, Array]):
    params, hidden, wanted = saved
    rows, places = wanted.tokens.shape
    # d loss / d logprobs of every place: what the forward pass spread over the row, collected again.
    weights = jnp.zeros((rows, places), jnp.float32)
    row = jnp.broadcast_to(jnp.arange(rows)[:, None], wanted.place.shape)
    target = jnp.where(wanted.place < 0, places, wanted.place)
    weights = weights.at[row, target].set(gradient[0], mode="drop", unique_indices=True)

    def add(index: Array, sums: tuple[Any, Array]) -> tuple[Any, Array]:
        d_params, d_hidden = sums
        states, tokens = _chunk(head, hidden, wanted, index)
        _, pull = jax.vjp(lambda params, states: head(params, states, tokens)[0], params, states)
        here = jax.lax.dynamic_slice_in_dim(weights, index * head.chunk, head.chunk, axis=1)
        of_params, of_states = pull(here)
        d_params = jax.tree.map(lambda a, g: a + g.astype(jnp.float32), d_params, of_params)
        return d_params, jax.lax.dynamic_update_slice_in_dim(d_hidden, of_states, index * head.chunk, axis=1)

    nothing = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    d_places = jnp.zeros((rows, places, hidden.shape[-1]), hidden.dtype)
    d_params, d_places = jax.lax.fori_loop(0, wanted.chunks, add, (nothing, d_places))
    d_hidden = _back_in_row(d_places, wanted.place)
    return jax.tree.map(lambda g, p: g.astype(p.dtype), d_params, params), d_hidden, None


_measure.defvjp(_measure_forward, _measure_backward)


def _back_in_row(values: Array, place: Array) -> Array:
    """Values [rows, places, …] where each token of the row went; 0 for tokens that are not wanted."""
    index = jnp.maximum(place, 0).reshape(*place.shape, *(1,) * (values.ndim - 2))
    is_wanted = (place >= 0).reshape(index.shape)
    return jnp.where(is_wanted, jnp.take_along_axis(values, index, axis=1), 0)
