"""Supervised warm start: the stages of `config.sft`, one after the other (imitation/).

A step draws a batch of examples, packs several into each row and takes one update on the negative log-likelihood of
their completions. Held-out episodes are evaluated as `train` does it: what the policy writes there, and, of the
expert's turns on them, the negative log-likelihood.

The examples are a function of the config and of the random numbers' state, which lies in every checkpoint: a run that
stops at step k and resumes is the run that did not stop, bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from finemem_jax.config import Config, UserError
from finemem_jax.console import Progress
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.environment import Environment, text_of
from finemem_jax.evaluate import evaluate_all, headline
from finemem_jax.evaluation.records import Evaluation
from finemem_jax.export import report_warm_start
from finemem_jax.hosts import agreement
from finemem_jax.imitation.examples import Example, choose_row_tokens, pack_examples
from finemem_jax.imitation.exercises import Exercises, expert_examples
from finemem_jax.imitation.traces import read_traces, render_traces
from finemem_jax.loading import (
    Policy,
    check_answerer,
    fit_prompts,
    load_answerer,
    load_environment,
    load_fast,
    load_held_out,
    load_judge,
    load_mesh,
    load_policy,
    load_training,
)
from finemem_jax.rl import metrics as metrics_lib
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_sft_step, state_shardings
from finemem_jax.rollouts import packing
from finemem_jax.run import workdir as workdirs
from finemem_jax.run.beginning import alone, claim
from finemem_jax.run.clock import Clock
from finemem_jax.run.ending import Reached, end_step, results_of, saved_at_the_end
from finemem_jax.run.journal import CHECKPOINTS, Journal, say
from finemem_jax.run.preemption import Preemption
from finemem_jax.run.watchdog import Watchdog

METRICS = "sft_metrics.jsonl"
TRIAL_BATCHES = 24  # batches of a stage that are drawn to choose the length of its rows


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps `start` to `end` (exclusive) of the run."""

    index: int
    name: str
    start: int
    end: int
    lr: float


def sft(cfg: Config, workdir: Path, *, accept_config_change: bool = False) -> Policy:
    """Runs the stages of `cfg.sft`, resuming from the newest checkpoint in `workdir`; the trained policy.

    Files of the run: config.json, sft_metrics.jsonl and evaluations.jsonl (functions of the seed, byte for byte),
    timings.jsonl, heldout/, results.json, checkpoints/, and hf/, the result as a Hugging Face folder.
    Raises RunEnded when it ends early on purpose, with the state saved.
    """
    with alone(workdir, cfg.guards.grace) as preemption:
        return _sft(cfg, workdir, preemption, accept_config_change)


def _sft(cfg: Config, workdir: Path, preemption: Preemption, accept_config_change: bool) -> Policy:
    # --- setup -------------------------------------------------------------------------------------------------
    with preemption.interruptible():
        changed = claim(cfg, workdir, "sft", accept_change=accept_config_change)
        check_answerer(cfg)
        if cfg.model.lora.roles:
            raise UserError(
                f"config.model.lora.roles={cfg.model.lora.roles}: a warm start trains one adapter for all roles, or "
                "all parameters; leave it ()"
            )
        mesh = load_mesh(cfg)
        if mesh is not None:
            packing.check_rows(mesh, cfg.train.microbatch_rows, agreement.process_count())
        policy = load_policy(cfg, mesh)
        env = load_environment(cfg, policy.tokenizer, load_judge(cfg, workdir))
        decode = partial(text_of, policy.tokenizer)
        answerer = load_answerer(cfg, workdir)
        held_out = load_held_out(cfg) if cfg.eval.temperatures or cfg.sft.eval_examples else []
        held_out = list(fit_prompts(held_out, env, cfg)) if held_out else []
        traces, digest = load_traces(cfg, env)
        is_on_traces_alone = set(cfg.sft.stages) == {"traces"}
        episodes = () if is_on_traces_alone else load_training(cfg)
        pool = range(min(cfg.sft.pool, len(episodes)))
        exercises = Exercises(cfg, env, () if is_on_traces_alone else fit_prompts(episodes, env, cfg, pool), traces)
        expert = expert_examples(cfg, env, held_out, cfg.sft.eval_examples)
        measure = NegativeLogLikelihood(policy, cfg, mesh)
        stages = stages_of(cfg)
        total = stages[-1].end
        journal = Journal(_with_schedule(cfg, total), workdir, metrics=METRICS)
        # The optimizers of all stages have a state of the same shape.
        state, first = journal.resume(create_train_state(policy.params, _optimizer(cfg, stages[0])))
        if first and journal.numbers.get("traces", digest) != digest and not accept_config_change:
            raise UserError(
                f"config.sft.traces={cfg.sft.traces}: the file is another than at the checkpoint of step {first}; "
                "--accept-config-change goes on with it"
            )
        if agreement.is_lead():
            workdirs.store_config(cfg, workdir, changed, first)
        engine = Engine(policy.model, state.params, cfg.engine, load_fast(cfg, policy))

        progress = Progress(total, "sft", is_muted=not agreement.is_lead())
        watchdog = Watchdog(cfg.guards.stall, workdir, engine.describe, agreement.process_index())

    def evaluate_now(when: str) -> dict[str, Evaluation]:
        params = reached.state.params
        nll = {"nll": measure(params, expert)} if expert else {}
        engine.set_params(params)
        found = evaluate_all(engine, env, answerer, held_out, cfg)
        engine.release()  # the updates need the memory
        found = {name: dataclasses.replace(e, metrics={**e.metrics, **nll}) for name, e in found.items()}
        shown = [headline(when, found)] if found else [f"{when}: held-out"]
        progress.say(", ".join([*shown, *(f"nll {value:.4f}" for value in nll.values())]))
        return found

    reached, clock = Reached(state, first), None
    with saved_at_the_end(reached, journal, preemption), progress, watchdog:
        progress.say(workdirs.summary(cfg))
        if first:
            progress.say(f"resumed at step {first} from {workdir / CHECKPOINTS}")
        for stage in stages:
            if reached.done >= stage.end:
                continue
            with preemption.interruptible():
                row_tokens = choose_row_tokens(trial_batches(exercises, stage, cfg), cfg)
                progress.say(f"{stage.name}: {stage.end - stage.start} steps, rows of {row_tokens} tokens")
                numbers = np.random.default_rng([cfg.seed, stage.index])
                optimizer = _optimizer(cfg, stage)
                if reached.done == stage.start:
                    # Each has an optimizer of its own: the moments of one task say little about the next.
                    reached.state = create_train_state(reached.state.params, optimizer)
                elif journal.numbers:
                    numbers.bit_generator.state = journal.numbers
                examples = exercises.stream(stage.name, numbers)
                update = make_sft_step(
                    policy.model,
                    optimizer,
                    chunk=cfg.train.logprob_chunk,
                    shardings=state_shardings(reached.state) if mesh is not None else None,
                    mesh=mesh,
                )

            # --- steps -----------------------------------------------------------------------------------------
            for step in range(reached.done, stage.end):
                preemption.check(step)
                clock = Clock(watchdog, progress, step, before=clock)
                if cfg.sft.eval_every and journal.needs_evaluation(step):
                    with clock.phase("evaluate"), preemption.interruptible():
                        found = evaluate_now(f"step {step}" if step else "before")
                    with agreement.together():
                        journal.write_evaluation(step, "after" if step else "before", found, decode)
                with clock.phase("pack"), agreement.together():
                    batch = pack_examples(list(itertools.islice(examples, cfg.sft.batch)), cfg, row_tokens)
                    rows = packing.to_device(batch.rows, mesh)
                with clock.phase("update"), jax.transfer_guard("disallow"):
                    reached.state, metrics = update(reached.state, rows)
                    reached.is_whole = False  # until the device has made it
                    values = metrics_lib.read(metrics)
                drawn = {**numbers.bit_generator.state, "traces": digest}
                reached.done, journal.numbers, reached.is_whole = step + 1, drawn, True
                counts = {name: getattr(batch, name) for name in ("examples", "too_long", "tokens")}
                line = {"stage": stage.name, **values, **counts, "padding_share": batch.padding_share}
                with clock.phase("log"), agreement.together():
                    journal.write(journal.metrics, step, line)
                    alarms = journal.check(step, {}, [values["skipped_updates"] > 0])
                with agreement.together():
                    journal.write(journal.timings, step, clock.tell())
                progress.update(reached.done, stage=stage.name, nll=values["nll"])
                end_step(reached, journal, clock, watchdog, alarms)

        # --- after ---------------------------------------------------------------------------------------------
        progress.doing("evaluate")
        watchdog.enter("evaluate", reached.done)
        with preemption.interruptible():
            found = evaluate_now("after")
        with agreement.together():
            journal.write_evaluation(reached.done, "after", found, decode)
        with results_of(reached, journal, watchdog, workdir):
            report_warm_start(cfg, workdir, policy, reached.state.params, found)
        return Policy(policy.tokenizer, policy.model, reached.state.params)


def stages_of(cfg: Config) -> list[Stage]:
    """The stages of the run, at least one."""
    ends = list(itertools.accumulate(cfg.sft.steps))
    starts = [0, *ends][: len(ends)]
    named = zip(cfg.sft.stages, starts, ends, cfg.sft.lr, strict=True)
    return [Stage(index, *values) for index, values in enumerate(named)] or [Stage(0, "expert", 0, 0, 0.0)]


def load_traces(cfg: Config, env: Environment) -> tuple[list[Example], str]:
    """The examples of `config.sft.traces`, and a digest of them; none where there is no such file."""
    if not cfg.sft.traces:
        return [], ""
    found = read_traces(Path(cfg.sft.traces))
    examples, left_out = render_traces(found, env)
    reasons = "; ".join(f"{count}: {why}" for why, count in left_out.most_common())
    if not examples:
        raise UserError(f"config.sft.traces={cfg.sft.traces}: none of {len(found)} turns can be taught ({reasons})")
    note = f", {left_out.total()} of {len(found)} left out ({reasons})" if left_out else ""
    say(f"traces: {len(examples)} turns{note}")
    return examples, hashlib.sha256(repr(examples).encode()).hexdigest()


def _optimizer(cfg: Config, stage: Stage) -> optax.GradientTransformation:
    return make_optimizer(dataclasses.replace(cfg.optimizer, lr=stage.lr), stage.end - stage.start)


def _with_schedule(cfg: Config, steps: int) -> Config:
    """The config with sft's schedule where the journal looks for that of training."""
    train = dataclasses.replace(
        cfg.train, steps=steps, checkpoint_every=cfg.sft.checkpoint_every, eval_every=cfg.sft.eval_every
    )
    return dataclasses.replace(cfg, train=train)


def trial_batches(exercises: Exercises, stage: Stage, cfg: Config) -> list[list[Example]]:
    """Batches like those of the stage, from random numbers of their own."""
    examples = exercises.stream(stage.name, np.random.default_rng([cfg.seed, stage.index, 1]))
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
