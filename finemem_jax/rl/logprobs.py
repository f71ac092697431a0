"""Log-probabilities of given tokens: the one definition that sampler, reference and loss share.

Tempered, never truncated, float32. `logprobs[b, t]` is the log-probability of `tokens[b, t]` given the tokens
before it in the same segment; it is 0 at a segment's first token and on padding, which nothing predicts.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def logprobs_of(
    logits: Float[Array, "*batch vocab"],
    tokens: Int[Array, "*batch"],
    temperature: float | Float[Array, "*#batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """log softmax(logits / temperature) at `tokens`, in float32. The temperature is above 0."""
    temperature = jnp.asarray(temperature, jnp.float32)
    scaled = logits.astype(jnp.float32) / temperature[..., None]
    # Relative to the largest: the difference of two large numbers would lose the digits that count.
    scaled = scaled - jax.lax.stop_gradient(jnp.max(scaled, axis=-1, keepdims=True))
    chosen = jnp.take_along_axis(scaled, tokens[..., None], axis=-1)[..., 0]
    return chosen - jnp.log(jnp.sum(jnp.exp(scaled), axis=-1))


def token_logprobs(
    model: nn.Module,
    params: Any,
    tokens: Int[Array, "rows seq"],
    positions: Int[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"],
    *,
    temperature: float = 1.0,
    chunk: int = 512,
) -> Float[Array, "rows seq"]:
    """Log-probability of every token given the ones before it in its segment; column 0 is 0.

    The logits of `chunk` positions of each row exist at a time, in the backward pass too: with a vocabulary of
    151,936 the logits of a whole batch would need more memory than the model.
    """
    hidden = model.apply({"params": params}, tokens, positions, segment_ids, method="hidden_states")
    hidden, targets = hidden[:, :-1], tokens[:, 1:]  # position t predicts token t + 1

    @jax.checkpoint
    def chunk_logprobs(chunk_hidden: Array, chunk_targets: Array) -> Array:
        logits = model.apply({"params": params}, chunk_hidden, method="unembed")
        return logprobs_of(logits, chunk_targets, temperature)

    rows, length = targets.shape
    if length <= chunk:
        predicted = chunk_logprobs(hidden, targets)
    else:
        count = -(-length // chunk)
        padding = count * chunk - length
        hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0))).reshape(rows, count, chunk, -1)
        targets = jnp.pad(targets, ((0, 0), (0, padding))).reshape(rows, count, chunk)
        predicted = jax.lax.map(
            lambda pair: chunk_logprobs(*pair), (hidden.swapaxes(0, 1), targets.swapaxes(0, 1))
        )  # [count, rows, chunk]
        predicted = predicted.swapaxes(0, 1).reshape(rows, -1)[:, :length]
    continues = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
    return jnp.pad(jnp.where(continues, predicted, 0.0), ((0, 0), (1, 0)))
