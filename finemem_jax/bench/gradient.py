"""How much the gradient of a config's policy spreads over batches: the variance that its rewards and credit leave.

    finemem bench gradient --config=configs/contest/csr_eara.py --batches=16

Batches of rollouts are drawn as the first steps of a run draw them, all by the policy that the run begins with, which
is never updated, and each gives the gradient that a step would clip and apply, without the KL term. The noise scale
does not change with the scale of the advantages:

    noise_scale       trace of the covariance of a batch's gradient over the squared norm of its mean: how many batches
                      make the spread of their mean as large as what they agree on (McCandlish et al., arXiv 1812.06162,
                      equation 2.9, of batches in place of examples). null: no agreement is left of so few batches
    mean_norm         norm of the mean, the part that spread alone would give it taken out (0 where nothing is left)
    deviation         root of the trace of the covariance
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from finemem_jax.config import Config, UserError
from finemem_jax.console import Progress
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.turns import advantages, tabulate
from finemem_jax.rl.train_state import create_train_state
from finemem_jax.rl.train_step import make_train_step
from finemem_jax.rollouts import packing
from finemem_jax.rollouts.drawn_groups import collect_groups
from finemem_jax.rollouts.groups import pack_groups, share_groups
from finemem_jax.run.clock import Clock
from finemem_jax.run.watchdog import Watchdog
from finemem_jax.schema.config_files import load_config
from finemem_jax.train import setup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="configs/quickstart.py", help="config file (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. train.episodes=4")
    parser.add_argument(
        "--batches", type=int, default=16, help="of `train.episodes` groups each (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.batches < 2:
        raise UserError(f"--batches={args.batches}: at least 2, of one nothing is known about the spread")
    cfg = load_config(args.config, [f"--config.{override}" for override in args.set])
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, kl_coef=0.0))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        measured = spread(gradients(cfg, Path(folder), args.batches))
    return {
        "config": cfg.name,
        **measured,
        "rollouts_per_batch": cfg.train.episodes * cfg.train.group_size,
        "seconds": time.perf_counter() - start,
        "device": jax.devices()[0].device_kind,
    }


def gradients(cfg: Config, workdir: Path, batches: int) -> Iterator[np.ndarray]:
    """The gradient [parameters], float32, of the policy that a run begins with, on each of the batches that its first
    steps would draw if it stayed as it is."""
    parts, state = setup(cfg, workdir)
    params = jax.tree.map(np.asarray, state.params)
    keep = _gradient_as_state()
    update = make_train_step(
        parts.policy.model,
        keep,
        cfg.loss,
        temperature=cfg.train.temperature,
        chunk=cfg.train.logprob_chunk,
        mesh=parts.mesh,
    )
    engine = Engine(parts.policy.model, state.params, cfg.engine, parts.fast)
    watchdog = Watchdog(dataclasses.replace(cfg.guards.stall, action="off"), workdir, engine.describe)
    with Progress(batches, "gradient") as progress:
        for step in range(batches):
            state = create_train_state(jax.tree.map(jnp.asarray, params), keep)
            engine.set_params(state.params)
            clock, position = Clock(watchdog, progress, step), step * cfg.train.episodes
            own = collect_groups(
                engine, parts.env, parts.answerer, parts.episodes, cfg, clock, step=step, position=position
            )
            engine.release()
            groups, lengths = share_groups(own, parts.env, share_prefixes=cfg.train.share_prefixes)
            turns = tabulate(groups, cfg.rewards, parts.env.count_tokens)
            by_sample = turns.split(advantages(turns, cfg.rewards.weights, cfg.advantage))
            packed, _ = pack_groups(range(len(groups)), own, lengths, by_sample, cfg)
            state, _ = update(state, packing.to_device(packed, parts.mesh))
            yield np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.opt_state)])
            progress.update(step + 1)


def spread(found: Iterable[np.ndarray]) -> dict[str, Any]:
    """What gradients [parameters] of independent batches, at least 2, say of their mean and covariance, both estimated
    without bias. They are read one by one."""
    total: Any = 0.0
    squares, count = 0.0, 0
    for gradient in found:
        wide = gradient.astype(np.float64)
        total, squares, count = total + wide, squares + float(wide @ wide), count + 1
    agreed = (float(total @ total) - squares) / (count * (count - 1))  # mean product of two different batches
    variance = (squares - float(total @ total) / count) / (count - 1)
    return {
        "batches": count,
        "noise_scale": variance / agreed if agreed > 0 else None,
        "mean_norm": float(np.sqrt(max(agreed, 0.0))),
        "deviation": float(np.sqrt(max(variance, 0.0))),
    }


def _gradient_as_state() -> optax.GradientTransformation:
    """An optimizer that changes nothing and whose state is the gradient it was given last."""

    def init(params: Any) -> Any:
        return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=jnp.float32), params)

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(jnp.zeros_like, gradient), gradient

    return optax.GradientTransformation(init, update)
