"""A write into fast weights: a few epochs of SGD on texts, of many episodes in one call (TMEM, arXiv 2606.04536).

Below the layers that carry fast weights nothing changes while a write runs, so their hidden states are computed once,
and the epochs run through the last layers and the head alone.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from finemem_jax.config import FastConfig
from finemem_jax.nn.fast_weights import FastWeights
from finemem_jax.nn.layers import Layer, LayerInputs, rope_angles
from finemem_jax.rl.logprobs import logprobs_of_hidden

HEAD_TOKENS = 4096  # whose logits exist at once


@flax.struct.dataclass
class Texts:
    """What each owner of fast weights learns; a place without a text has length 0."""

    tokens: Any  # [owners, texts, seq] int32; texts is a multiple of the batch
    lengths: Any  # [owners, texts] int32: valid tokens
    starts: Any  # [owners, texts] int32: the first token that is learned, at least 1; those before it are given


@flax.struct.dataclass
class _Batches:
    """The texts as [batches, owners * batch, …]: those of one owner in one batch are neighbours."""

    tokens: Any  # [.., seq] int32
    segment_ids: Any  # [.., seq] int32; 0 is padding
    weights: Any  # [.., seq] float32: 1 / learned tokens of the owner's batch, 0 elsewhere

    def at(self, index: Array) -> _Batches:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), self)


def write(
    model: nn.Module, params: Any, fast: FastWeights, texts: Texts, cfg: FastConfig
) -> tuple[Any, Float[Array, "2 owners"]]:
    """B after the write, and the mean loss (nats per learned token) of every owner before and after it.

    Each gradient step is on the mean over the learned tokens of `cfg.batch` of the owner's texts, in their order. What
    an owner's B becomes depends on its own texts alone; without any, or where the steps diverge, it stays as it is.
    """
    owners = texts.tokens.shape[0]
    batches = _batches(texts, cfg.batch)
    filled = jnp.max(-(-jnp.sum(texts.lengths > 0, axis=1) // cfg.batch))  # batches that hold a text
    first = model.cfg.num_layers - cfg.layers

    def below(index: Array, hidden: Array) -> Array:
        batch = batches.at(index)
        x = model.apply({"params": params}, batch.tokens, method="embed")
        return hidden.at[index].set(_run(model, params, x, batch.segment_ids, 0, first, None))

    shape = (*batches.tokens.shape, model.cfg.hidden_size)
    hidden = jax.lax.fori_loop(0, filled, below, jnp.zeros(shape, model.cfg.dtype))

    def losses(b: Any, index: Array) -> Array:
        """[owners, batch * seq]: minus the log-probability of every learned token, times its weight."""
        batch = batches.at(index)
        x = jax.lax.dynamic_index_in_dim(hidden, index, keepdims=False)
        x = _run(model, params, x, batch.segment_ids, first, model.cfg.num_layers, FastWeights(fast.a, b, fast.scale))
        logprobs = logprobs_of_hidden(
            model,
            params,
            model.apply({"params": params}, x, method="normed"),
            batch.tokens,
            batch.segment_ids,
            chunk=max(1, HEAD_TOKENS // batch.tokens.shape[0]),
            counted=batch.weights > 0,
        )
        return -(logprobs * batch.weights).reshape(owners, -1)

    def step(index: Array, b: Any) -> Any:
        gradient = jax.grad(lambda b: jnp.sum(losses(b, index % filled)))(b)
        return jax.tree.map(lambda b, g: b - cfg.lr * g, b, gradient)

    learned = jnp.sum(batches.weights > 0, axis=-1).reshape(-1, owners, cfg.batch).sum(-1)  # [batches, owners]

    def mean_loss(b: Any) -> Array:
        def add(index: Array, total: Array) -> Array:
            return total + jnp.sum(losses(b, index), axis=-1) * learned[index]

        total = jax.lax.fori_loop(0, filled, add, jnp.zeros(owners, jnp.float32))
        return total / jnp.maximum(jnp.sum(learned, axis=0), 1)

    # One after the other: on a mesh each of the three loops waits for the other devices, and of two that may run at
    # once every device could begin with another one.
    b, before = jax.lax.optimization_barrier((fast.b, mean_loss(fast.b)))
    written = jax.lax.fori_loop(0, cfg.epochs * filled, step, b)
    after = mean_loss(written)
    is_finite = jnp.isfinite(after)
    kept = is_finite.reshape(-1, 1, 1, 1)
    written = jax.tree.map(lambda new, old: jnp.where(kept, new, old), written, fast.b)
    return written, jnp.stack([before, jnp.where(is_finite, after, before)])


def _batches(texts: Texts, batch: int) -> _Batches:
    owners, count, seq = texts.tokens.shape
    place = jnp.arange(seq)
    is_token = place < texts.lengths[..., None]
    is_learned = is_token & (place >= texts.starts[..., None])

    def split(x: Array) -> Array:
        x = x.reshape(owners, count // batch, batch, seq).swapaxes(0, 1)
        return x.reshape(count // batch, owners * batch, seq)

    learned = jnp.sum(is_learned.reshape(owners, count // batch, batch * seq), axis=-1)
    weights = is_learned / jnp.repeat(jnp.maximum(learned, 1), batch, axis=1)[..., None]
    return _Batches(split(jnp.asarray(texts.tokens)), split(is_token.astype(jnp.int32)), split(weights))


def _run(
    model: nn.Module, params: Any, x: Array, segment_ids: Array, start: int, end: int, fast: FastWeights | None
) -> Array:
    """The hidden states behind layers `start` to `end` (exclusive). Indexed one by one: a slice of the stacked
    parameters would be a copy of them."""
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    cos, sin = rope_angles(positions, model.cfg)
    inputs = LayerInputs(cos, sin, segment_ids, None, 0, fast)

    def one(x: Array, index: Array) -> tuple[Array, None]:
        own = jax.tree.map(lambda p: jax.lax.dynamic_index_in_dim(p, index, keepdims=False), params["layers"])
        return Layer(model.cfg).apply({"params": own}, (x, None), index, inputs)[0][0], None

    if model.cfg.remat != "none":  # else what a layer needs is kept of all of them for the backward pass
        one = jax.checkpoint(one, prevent_cse=False)
    return jax.lax.scan(one, x, jnp.arange(start, end))[0]
