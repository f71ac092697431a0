"""Optimizer and the state one update maps to the next."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from finemem_jax.config import OptimizerConfig
from finemem_jax.nn.lora import has_adapters, split_adapters

UNDECAYED = ("scale", "bias")  # norms and biases have no weight decay


@flax.struct.dataclass
class TrainState:
    step: Any  # [] int32: updates attempted, skipped ones included
    params: Any  # nested dict of float arrays, all of the model's
    opt_state: Any  # of the parameters that are trained


def split_trained(params: Any) -> tuple[Any, Any]:
    """(frozen, trained): with adapters in the tree they alone are trained, without any all parameters are."""
    return split_adapters(params) if has_adapters(params) else ({}, params)


def create_train_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first update. The moments lie where their parameters do, the counters everywhere."""
    trained = split_trained(params)[1]
    opt_shardings, everywhere = _optimizer_shardings(trained, optimizer)
    # Said explicitly: zeros depend on no input, so the compiler would make the moments whole on every device.
    opt_state = jax.jit(optimizer.init, out_shardings=opt_shardings)(trained)
    step = jax.device_put(jnp.zeros((), jnp.int32), everywhere)
    # Placed although they lie there already: as free arrays they would cost the second update a compilation.
    return TrainState(step, jax.device_put(params, jax.tree.map(lambda p: p.sharding, params)), opt_state)


def abstract_train_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and shardings of `create_train_state`, from those of the parameters; nothing is allocated."""
    trained = split_trained(params)[1]
    opt_shardings, everywhere = _optimizer_shardings(trained, optimizer)
    opt_state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, trained),
        opt_shardings,
    )
    return TrainState(jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere), params, opt_state)


def _optimizer_shardings(trained: Any, optimizer: optax.GradientTransformation) -> tuple[Any, Any]:
    shardings = jax.tree.map(lambda p: p.sharding, trained)
    one = jax.tree.leaves(shardings)[0]
    everywhere = NamedSharding(one.mesh, PartitionSpec()) if isinstance(one, NamedSharding) else one
    opt_shardings = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, trained),
        shardings,
        transform_non_params=lambda _: everywhere,
    )
    return opt_shardings, everywhere


def make_optimizer(cfg: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip. `updates`: optimizer updates of the whole run, for the schedule."""
    steps = [optax.clip_by_global_norm(cfg.max_grad_norm)] if cfg.max_grad_norm else []
    steps.append(
        optax.adamw(
            make_schedule(cfg, updates),
            b1=cfg.b1,
            b2=cfg.b2,
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
            mask=decayed,
            mu_dtype=jnp.bfloat16 if cfg.bf16_momentum else None,
        )
    )
    return optax.chain(*steps)


def make_schedule(cfg: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate of update i (from 0) of `updates`: a linear rise over the warm-up, then the decay.

    The rise has no update at rate 0 and the first one after it has the full rate. linear and cosine reach 0 on
    the last update.
    """
    warmup = round(cfg.warmup * updates)
    decay_span = max(updates - 1 - warmup, 1)

    def schedule(count: Array | int) -> Array:
        rise = jnp.minimum((count + 1) / (warmup + 1), 1.0)
        done = jnp.clip((count - warmup) / decay_span, 0.0, 1.0)
        if cfg.schedule == "linear":
            decay = 1.0 - done
        elif cfg.schedule == "cosine":
            decay = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        else:
            decay = 1.0
        return cfg.lr * rise * decay

    return schedule


def decayed(params: Any) -> Any:
    """True for parameters under weight decay: all but norm scales and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in UNDECAYED, params)
