"""Supervised warm start: the stages of `config.sft`, one after the other (imitation/).

A step draws a batch of examples, packs several into each row and takes one update on the negative log-likelihood of
their completions. Held-out episodes are evaluated as `train` does it: what the policy writes there, and, of the
expert's turns on them, the negative log-likelihood.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from finemem_jax.config import Config
from finemem_jax.console import Progress
from finemem_jax.decoding.engine import Engine
from finemem_jax.evaluate import evaluate_all, headline
from finemem_jax.files import JsonLines
from finemem_jax.hosts import agreement
from finemem_jax.imitation.examples import Example, choose_row_tokens, pack_examples
from finemem_jax.imitation.exercises import Exercises, expert_examples
from finemem_jax.loading import (
    Policy,
    load_answerer,
    load_environment,
    load_held_out,
    load_judge,
    load_mesh,
    load_policy,
    load_training,
)
from finemem_jax.rl import metrics as metrics_lib
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_sft_step
from finemem_jax.rollouts import packing

TRIAL_BATCHES = 8  # batches of a stage that are drawn to choose the length of its rows


def sft(cfg: Config, workdir: Path) -> Policy:
    """Runs the stages of `cfg.sft` one after the other and writes the result as a Hugging Face folder, WORKDIR/hf."""
    from finemem_jax.weights import hf
    from finemem_jax.weights.export_folder import claim_place

    claim_place(workdir / "hf")
    mesh = load_mesh(cfg)
    policy = load_policy(cfg, mesh)
    env = load_environment(cfg, policy.tokenizer, load_judge(cfg, workdir))
    episodes = load_training(cfg)
    held_out = load_held_out(cfg) if cfg.eval.temperatures or cfg.sft.eval_examples else []
    answerer = load_answerer(cfg, workdir)
    exercises = Exercises(cfg, env, episodes)
    expert = expert_examples(cfg, env, held_out, cfg.sft.eval_examples)
    measure = NegativeLogLikelihood(policy, cfg, mesh)
    engine = Engine(policy.model, agreement.gather_params(policy.model, policy.params), cfg.engine)
    is_muted = not agreement.is_lead()
    log = JsonLines(workdir / "sft_metrics.jsonl", keep_below=0, is_muted=is_muted)
    evaluations = JsonLines(workdir / "evaluations.jsonl", keep_below=0, is_muted=is_muted)
    params, done = policy.params, 0

    def evaluate_now(params: Any) -> None:
        nll = {"nll": measure(params, expert)} if expert else {}
        engine.set_params(agreement.gather_params(policy.model, params))
        found = evaluate_all(engine, env, answerer, held_out, cfg)
        engine.release()
        for name, evaluation in found.items():
            evaluations.write(done, {"policy": name, **evaluation.metrics, **nll})
        when = f"step {done}"
        shown = "".join(f"  held-out {name} {value:.4f}" for name, value in nll.items())
        progress.say(headline(when, {f"{when} {name}": e for name, e in found.items()}) + shown)

    with Progress(sum(cfg.sft.steps), "sft", is_muted=is_muted) as progress:
        for index, (stage, steps, lr) in enumerate(zip(cfg.sft.stages, cfg.sft.steps, cfg.sft.lr, strict=True)):
            # Each stage has an optimizer of its own: the moments of one task say little about the next.
            optimizer = make_optimizer(dataclasses.replace(cfg.optimizer, lr=lr), steps)
            state = create_train_state(params, optimizer)
            step = make_sft_step(policy.model, optimizer, chunk=cfg.train.logprob_chunk, mesh=mesh)
            row_tokens = choose_row_tokens(trial_batches(exercises, stage, cfg, index), cfg)
            progress.say(f"{stage}: rows of {row_tokens} tokens")
            examples = exercises.stream(stage, np.random.default_rng([cfg.seed, index]))
            for _ in range(steps):
                if cfg.sft.eval_every and done % cfg.sft.eval_every == 0:
                    evaluate_now(state.params)
                batch = pack_examples(list(itertools.islice(examples, cfg.sft.batch)), cfg, row_tokens)
                state, metrics = step(state, packing.to_device(batch.rows, mesh))
                values = metrics_lib.read(metrics)
                counts = {"examples": batch.examples, "tokens": batch.tokens, "padding_share": batch.padding_share}
                log.write(done, {"stage": stage, **values, **counts, "too_long": batch.too_long})
                done += 1
                progress.update(done, stage=stage, nll=values["nll"])
            params = state.params
        evaluate_now(params)
    hf.save_pretrained(workdir / "hf", policy.model, params, policy.tokenizer, dtype=cfg.sft.save_dtype)
    return Policy(policy.tokenizer, policy.model, params)


def trial_batches(exercises: Exercises, stage: str, cfg: Config, index: int) -> list[list[Example]]:
    """Batches like those of the stage, from random numbers of their own."""
    examples = exercises.stream(stage, np.random.default_rng([cfg.seed, index, 1]))
    return [list(itertools.islice(examples, cfg.sft.batch)) for _ in range(TRIAL_BATCHES)]


class NegativeLogLikelihood:
    """Mean negative log-likelihood of the completions of examples, nats per token."""

    def __init__(self, policy: Policy, cfg: Config, mesh: Mesh | None):
        self._cfg, self._mesh = cfg, mesh
        self._fill = make_fill_logprobs(policy.model, chunk=cfg.train.logprob_chunk, mesh=mesh)
        self._sum = jax.jit(lambda logprobs, weights: -jnp.sum(logprobs * weights))

    def __call__(self, params: Any, examples: Sequence[Example]) -> float:
        batch = pack_examples(examples, self._cfg, choose_row_tokens([examples], self._cfg))
        rows = packing.to_device(batch.rows, self._mesh)
        return float(jax.device_get(self._sum(self._fill(params, rows), rows.token_weights)))
