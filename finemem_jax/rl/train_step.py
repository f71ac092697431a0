"""One jitted update: gradients summed over microbatches, clipped, applied, or skipped when they are not finite.

A batch has the axes [microbatches, rows, seq]. Its token weights are normalised over all of it, so gradients of
microbatches are summed, never averaged, and the update is the same for every split. Only as many microbatches are
run as hold tokens, so padding the batch to one of a few shapes costs memory and no time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from finemem_jax.config import LossConfig
from finemem_jax.nn.fast_weights import FastSetup, FastWeights
from finemem_jax.nn.lora import join_adapters
from finemem_jax.nn.mesh import on_mesh
from finemem_jax.nn.typed import Jitted
from finemem_jax.rl import metrics as metrics_lib
from finemem_jax.rl.batch import RolloutBatch
from finemem_jax.rl.grpo import negative_log_likelihood, policy_loss
from finemem_jax.rl.logprobs import token_logprobs, token_logprobs_and_entropies
from finemem_jax.rl.metrics import Mean, Metrics, Sum
from finemem_jax.rl.train_state import TrainState, split_trained

StepFunction = Jitted[[TrainState, RolloutBatch], tuple[TrainState, Metrics]]
LossFunction = Callable[[Any, RolloutBatch], tuple[Array, Metrics]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    cfg: LossConfig,
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    shardings: TrainState | None = None,
    mesh: Mesh | None = None,
    fast: FastSetup | None = None,
) -> StepFunction:
    """The policy-gradient update. `temperature` is the one the rollouts were sampled at. fast: where rows carry fast
    weights, which are constants to the update.

    The arguments are taken as they lie: the batch as `packing.to_device` placed it. shardings: where the new state
    shall lie, `state_shardings(state)` to stay in place; None leaves it to the compiler, which is right for one
    device and may cost a second compilation on a mesh. mesh: the one they lie on.
    """

    def loss_of(params: Any, batch: RolloutBatch) -> tuple[Array, Metrics]:
        measure = token_logprobs_and_entropies if cfg.entropy else token_logprobs
        measured = measure(
            model,
            params,
            batch.tokens,
            batch.positions,
            batch.segment_ids,
            temperature=temperature,
            chunk=chunk,
            counted=batch.token_weights > 0,
            fast=carried(fast, batch.fast),
            adapter=batch.adapter,
        )
        logprobs, entropies = measured if cfg.entropy else (measured, None)
        loss, metrics = policy_loss(
            logprobs,
            batch.old_logprobs,
            batch.ref_logprobs,
            batch.advantages,
            batch.token_weights,
            cfg,
            segment_ids=batch.segment_ids if cfg.ratio == "sequence" else None,
        )
        if entropies is not None:
            tokens = jnp.sum(batch.token_weights > 0, dtype=jnp.float32)
            metrics = metrics | {"entropy": Mean(jnp.sum(entropies), tokens)}
        return loss, metrics

    return _make_step(loss_of, optimizer, shardings, mesh)


def make_sft_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    chunk: int = 512,
    shardings: TrainState | None = None,
    mesh: Mesh | None = None,
) -> StepFunction:
    """The supervised update: weighted negative log-likelihood of the batch's tokens."""

    def loss_of(params: Any, batch: RolloutBatch) -> tuple[Array, Metrics]:
        counted = batch.token_weights > 0
        logprobs = token_logprobs(
            model,
            params,
            batch.tokens,
            batch.positions,
            batch.segment_ids,
            chunk=chunk,
            counted=counted,
            adapter=batch.adapter,
        )
        return negative_log_likelihood(logprobs, batch.token_weights)

    return _make_step(loss_of, optimizer, shardings, mesh)


def make_fill_logprobs(
    model: nn.Module,
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    mesh: Mesh | None = None,
    fast: FastSetup | None = None,
) -> Jitted[[Any, RolloutBatch], Float[Array, "micro rows seq"]]:
    """Log-probabilities of a batch's weighted tokens under given parameters and the batch's fast weights, for
    `batch.replace(ref_logprobs=...)`."""

    @jax.jit
    def fill_logprobs(params: Any, batch: RolloutBatch) -> Float[Array, "micro rows seq"]:
        def one(index: Array, filled: Array) -> Array:
            fields = (batch.tokens, batch.positions, batch.segment_ids, batch.token_weights)
            tokens, positions, segment_ids, weights = (x[index] for x in fields)
            own = jax.tree.map(lambda x: x[index], batch.fast)
            logprobs = token_logprobs(
                model,
                params,
                tokens,
                positions,
                segment_ids,
                temperature=temperature,
                chunk=chunk,
                counted=weights > 0,
                fast=carried(fast, own),
                adapter=None if batch.adapter is None else batch.adapter[index],
            )
            return filled.at[index].set(logprobs)

        with on_mesh(mesh):
            return jax.lax.fori_loop(0, filled_microbatches(batch), one, jnp.zeros(batch.tokens.shape, jnp.float32))

    return fill_logprobs


def carried(setup: FastSetup | None, b: Any) -> FastWeights | None:
    """The fast weights of a microbatch's rows, as constants; None where there are none."""
    if setup is None or b is None:
        return None
    return FastWeights(setup.basis, jax.lax.stop_gradient(b), setup.cfg.scale)


def accumulate_gradients(loss_of: LossFunction, params: Any, batch: RolloutBatch) -> tuple[Any, Metrics]:
    """Gradient and metrics of the whole batch [microbatches, rows, seq], summed in float32."""

    def microbatch(index: Int[Array, ""]) -> RolloutBatch:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batch)

    gradient_of = jax.grad(loss_of, has_aux=True)
    _, metric_shapes = jax.eval_shape(gradient_of, params, jax.eval_shape(microbatch, jnp.zeros((), jnp.int32)))
    no_gradient = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=jnp.float32), params)
    no_metrics = {name: metric.empty() for name, metric in metric_shapes.items()}

    def add(index: Array, sums: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        gradient, metrics = gradient_of(params, microbatch(index))
        gradient = jax.tree.map(lambda a, g: a + g.astype(jnp.float32), sums[0], gradient)
        return gradient, metrics_lib.merge(sums[1], metrics)

    return jax.lax.fori_loop(0, filled_microbatches(batch), add, (no_gradient, no_metrics))


def filled_microbatches(batch: RolloutBatch) -> Int[Array, ""]:
    """Number of leading microbatches up to the last that holds any token."""
    is_filled = jnp.any(batch.segment_ids > 0, axis=(1, 2))
    return jnp.max(jnp.where(is_filled, jnp.arange(1, len(is_filled) + 1), 0))


def _without_unused(batch: RolloutBatch, new: Any, old: Any) -> Any:
    """`new`, with what belongs to adapters that no token of the batch was sampled with as it was before: a gradient of
    0 would leave them momentum and weight decay."""
    counted = batch.token_weights > 0

    def chosen(new: Array, old: Array) -> Array:
        if new.ndim < 4:  # a counter of the optimizer's; adapters are [layers, adapters, in, out]
            return new
        numbers = jnp.arange(new.shape[1])
        used = jnp.any(counted[..., None] & (batch.adapter[..., None] == numbers), axis=(0, 1, 2))
        return jnp.where(used[None, :, None, None], new, old)

    return jax.tree.map(chosen, new, old)


def state_shardings(state: TrainState) -> TrainState:
    """Where each array of a state lies."""
    return jax.tree.map(lambda x: x.sharding, state)


def _make_step(
    loss_of: LossFunction,
    optimizer: optax.GradientTransformation,
    shardings: TrainState | None,
    mesh: Mesh | None,
) -> StepFunction:
    def step(state: TrainState, batch: RolloutBatch) -> tuple[TrainState, Metrics]:
        frozen, trained = split_trained(state.params)

        def loss_of_trained(params: Any, batch: RolloutBatch) -> tuple[Array, Metrics]:
            return loss_of(join_adapters(frozen, params), batch)

        with on_mesh(mesh):
            gradient, metrics = accumulate_gradients(loss_of_trained, trained, batch)
        norm = optax.tree.norm(gradient)
        is_finite = jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
        params = optax.apply_updates(trained, updates)

        def keep_finite(new: Array, old: Array) -> Array:
            return jnp.where(is_finite, new, old)

        if batch.adapter is not None:
            params, opt_state = _without_unused(batch, (params, opt_state), (trained, state.opt_state))

        skipped = 1.0 - is_finite.astype(jnp.float32)
        of_update: Metrics = {
            "grad_norm": Mean(jnp.where(is_finite, norm, 0.0), 1.0 - skipped),
            "skipped_updates": Sum(skipped),
        }
        return (
            TrainState(
                state.step + 1,
                join_adapters(frozen, jax.tree.map(keep_finite, params, trained)),
                jax.tree.map(keep_finite, opt_state, state.opt_state),
            ),
            metrics | of_update,
        )

    # The old state is donated: without that, two copies of parameters and moments would live through the update.
    return jax.jit(step, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None))
