"""The training loop; read this first.

One step of Fine-Mem with GRPO:

    1. rollouts     G samples of each episode, written by the present policy through the engine (collect.py)
    2. rewards      per turn: format, chunk questions, evidence, compression (rewards/, env/turns.py)
    3. advantages   by the credit rule: over the group at the same turn (credit/step.py, env/credit.py)
    4. packing      one training sequence = one (rollout, step): prompt and the tokens that were sampled
    5. update       clipped policy gradient, KL to the reference (rl/grpo.py), in mini-batches of whole groups

Deviations from the paper, all in the config: a floor under the group's deviation (advantage.min_std), a write
budget in the environment (memory.max_operations), credit of unanchored questions spread evenly (conservation).

Everything the loop draws is keyed by (seed, step, group, episode, sample, t), so a run is a function of its config, and
a run that stops at step k and resumes is the run that did not stop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from finemem_jax import config
from finemem_jax.benchmarks import contamination
from finemem_jax.config import Config
from finemem_jax.console import Progress
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.credit import complete
from finemem_jax.env.environment import Environment, text_of
from finemem_jax.env.episodes import chunks_at, longest
from finemem_jax.env.probing import check_probing
from finemem_jax.env.rehearsal import rehearse
from finemem_jax.env.turns import Turns, advantages, compared, tabulate, totals
from finemem_jax.evaluate import evaluate_all, evaluate_baselines, headline
from finemem_jax.evaluation.recorded import recorded_groups
from finemem_jax.evaluation.records import Evaluation, group_record, prompts_of
from finemem_jax.export import report
from finemem_jax.hosts import agreement
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
    load_rewarded,
)
from finemem_jax.nn.fast_weights import FastSetup, empty_memory
from finemem_jax.nn.lora import without_adapters
from finemem_jax.plan.formula import check_memory
from finemem_jax.reporting.trackers import Trackers
from finemem_jax.rewards._balance import forgetting_pays
from finemem_jax.rl import metrics as metrics_lib
from finemem_jax.rl.grpo import correct_engine_gap
from finemem_jax.rl.train_state import TrainState, create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_train_step, state_shardings
from finemem_jax.rollouts import packing, resample
from finemem_jax.rollouts.collect import warm_up
from finemem_jax.rollouts.drawn_groups import collect_groups, episode_indices
from finemem_jax.rollouts.groups import check_groups, check_prefixes, joined, mini_batches, pack_groups, share_groups
from finemem_jax.rollouts.metrics import (
    asked_metrics,
    engine_metrics,
    live_values,
    loss_metrics,
    resample_metrics,
    reward_metrics,
    rollout_metrics,
    sampled_tokens,
)
from finemem_jax.rollouts.shared_states import check_states
from finemem_jax.run import workdir as workdirs
from finemem_jax.run.beginning import alone, claim
from finemem_jax.run.clock import Clock
from finemem_jax.run.ending import Reached, end_step, results_of, saved_at_the_end
from finemem_jax.run.journal import CHECKPOINTS, Journal, say
from finemem_jax.run.preemption import Preemption
from finemem_jax.run.profiling import Profile
from finemem_jax.run.watchdog import Watchdog
from finemem_jax.types import Answerer, Episode, Rollout


def train(cfg: Config, workdir: Path, *, accept_config_change: bool = False) -> dict[str, Evaluation]:
    """Trains for `cfg.train.steps` steps, resuming from the newest checkpoint in `workdir`.

    Returns the evaluations before and after, by "when policy", e.g. "after greedy". Files of the run:
    config.json, metrics.jsonl (a function of the seed, byte for byte), evaluations.jsonl and alarms.jsonl likewise,
    rollouts.jsonl and heldout/ (what was written and answered), timings.jsonl, report.html, checkpoints/, curves.png,
    and hf/, the trained policy as a Hugging Face folder.
    Raises RunEnded when it ends early on purpose, with the state saved: preemption, an alarm, a failed part.
    """
    with alone(workdir, cfg.guards.grace) as preemption:
        return _train(cfg, workdir, preemption, accept_config_change)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a training works with, besides what it writes."""

    policy: Policy  # its parameters are in the state alone: a run that resumes has no use for those it began with
    env: Environment
    answerer: Answerer
    episodes: Sequence[Episode]
    held_out: Sequence[Episode]
    mesh: Mesh | None
    reference: Any  # parameters; None: the policy without its adapters, or no KL term
    update: Callable  # (state, batch) -> state, metrics
    fill: Callable  # (params, batch) -> log-probabilities
    correct_gap: Callable  # (batch, log-probabilities) -> batch
    fast: FastSetup | None  # where the method writes into fast weights


def setup(cfg: Config, workdir: Path) -> tuple[Parts, TrainState]:
    """The parts, and the state of step 0. A mistake in the config shows here, what is quick to check first."""
    check_answerer(cfg)
    check_probing(cfg)
    check_states(cfg)
    mesh = load_mesh(cfg)
    check_groups(cfg, agreement.process_count())
    check_prefixes(cfg, jax.default_backend())
    if mesh is not None:
        packing.check_rows(mesh, cfg.train.microbatch_rows, agreement.process_count())
    check_memory(cfg)
    # First: a bad row is found before weights are read
    episodes: Sequence[Episode] = load_rewarded(cfg)
    held_out: Sequence[Episode] = load_held_out(cfg)
    policy = load_policy(cfg, mesh)
    env = load_environment(cfg, policy.tokenizer, load_judge(cfg, workdir))
    rehearse(env, cfg.rewards, cfg.advantage)
    per_step = cfg.train.episodes + (cfg.train.resample_most if cfg.train.resample == "refill" else 0)
    drawn = episode_indices(len(episodes), cfg.seed, 0, min(cfg.train.steps * per_step, len(episodes)))
    episodes, held_out = fit_prompts(episodes, env, cfg, sorted(drawn)), fit_prompts(held_out, env, cfg)
    if warning := forgetting_pays(cfg.rewards, longest(episodes)):
        say(warning)
    answerer = load_answerer(cfg, workdir)
    optimizer = make_optimizer(cfg.optimizer, max(cfg.train.steps * cfg.train.epochs * cfg.train.mini_batches, 1))
    state = create_train_state(policy.params, optimizer)
    fast = load_fast(cfg, policy)
    temperature, chunk = cfg.train.temperature, cfg.train.logprob_chunk
    shardings = state_shardings(state) if mesh is not None else None
    parts = Parts(
        policy=dataclasses.replace(policy, params=None),
        env=env,
        answerer=answerer,
        episodes=episodes,
        held_out=held_out,
        mesh=mesh,
        # The update donates its state, so a reference of its own needs buffers of its own. With LoRA the reference
        # is the policy's frozen base, and there is no second copy.
        reference=jax.tree.map(jnp.copy, policy.params) if cfg.loss.kl_coef and not cfg.model.lora.rank else None,
        update=make_train_step(
            policy.model,
            optimizer,
            cfg.loss,
            temperature=temperature,
            chunk=chunk,
            shardings=shardings,
            mesh=mesh,
            fast=fast,
        ),
        fill=make_fill_logprobs(policy.model, temperature=temperature, chunk=chunk, mesh=mesh, fast=fast),
        correct_gap=jax.jit(partial(correct_engine_gap, cap=cfg.loss.engine_ratio_cap)),
        fast=fast,
    )
    return parts, state


def _train(cfg: Config, workdir: Path, preemption: Preemption, accept_config_change: bool) -> dict[str, Evaluation]:
    # --- setup -------------------------------------------------------------------------------------------------
    with preemption.interruptible():
        changed = claim(cfg, workdir, "train", accept_change=accept_config_change)
        parts, state = setup(cfg, workdir)
        policy, env, answerer, held_out = parts.policy, parts.env, parts.answerer, parts.held_out
        decode = partial(text_of, policy.tokenizer)
        journal = Journal(cfg, workdir)
        state, first = journal.resume(state)
        if agreement.is_lead():
            workdirs.store_config(cfg, workdir, changed, first)
        engine = Engine(policy.model, state.params, cfg.engine, parts.fast)
        draw = partial(collect_groups, engine, env, answerer, parts.episodes, cfg)
        no_memory = empty_memory(policy.model, parts.fast.cfg) if parts.fast is not None else None
        if cfg.engine.warm_up:
            warm_up(engine)
        is_lead = agreement.is_lead()
        trackers = Trackers(
            cfg.logging, workdir, name=cfg.name, config=config.to_dict(cfg), first=first, is_lead=is_lead
        )
        profile = Profile(cfg.profile, workdir, is_lead=is_lead)
        progress = Progress(cfg.train.steps, "train", is_muted=not is_lead)
        watchdog = Watchdog(cfg.guards.stall, workdir, engine.describe, agreement.process_index())

    reached, results, alarms_so_far, clock = Reached(state, first), {}, 0, None
    with saved_at_the_end(reached, journal, preemption), progress, watchdog, trackers, profile:
        _introduce(cfg, workdir, parts, progress, first)

        # --- steps ---------------------------------------------------------------------------------------------
        for step in range(first, cfg.train.steps):
            if journal.is_spent():
                progress.say(f"the budget of the run is spent after {step} steps: {journal.spent}")
                break
            preemption.check(step)
            clock = Clock(watchdog, progress, step, before=clock)
            profile.begin(step)
            work = {}
            if journal.needs_evaluation(step):
                with clock.phase("evaluate"), preemption.interruptible():
                    engine.set_params(reached.state.params)
                    found = evaluate_all(engine, env, answerer, held_out, cfg)
                work |= engine_metrics("engine/evaluate", engine.reset_stats(), clock.seconds["seconds/evaluate"])
                results |= {} if step else {f"before {name}": evaluation for name, evaluation in found.items()}
                progress.say(headline(f"step {step}" if step else "before", found))
                with agreement.together():
                    journal.write_evaluation(step, "after" if step else "before", found, decode)
                    trackers.evaluations(step, found)

            with clock.phase("rollout"), preemption.interruptible():
                engine.set_params(reached.state.params)
            own, groups, lengths, wanted = {}, [], [], cfg.train.episodes
            while wanted:
                with clock.phase("rollout"), preemption.interruptible():
                    numbers = range(len(groups), len(groups) + wanted)
                    chunks = chunks_at(cfg.train.curriculum, journal.share_done(step))
                    with agreement.together():
                        made = draw(clock, step=step, position=journal.episodes_drawn, numbers=numbers, chunks=chunks)
                    more, more_lengths = share_groups(made, env, share_prefixes=cfg.train.share_prefixes)
                own, groups, lengths = own | made, groups + more, joined(lengths, more_lengths)
                with clock.phase("reward"), agreement.together():
                    turns = tabulate(groups, cfg.rewards, env.count_tokens)
                    keys = compared(turns, cfg.advantage)
                    credit = advantages(turns, cfg.rewards.weights, cfg.advantage)
                    by_sample = turns.split(credit)
                wanted = resample.still_wanted(cfg.train, by_sample)
            with clock.phase("rollout"):
                memories = engine.take_snapshots()
                engine.release()  # the update needs the memory; what it held is of parameters that end here
            work |= engine_metrics("engine", engine.reset_stats(), clock.seconds["seconds/rollout"])

            places, losses, batches = resample.trained_groups(cfg.train, by_sample), [], []
            for batch_places in mini_batches(cfg, step, cfg.train.episodes):
                chosen = [g for g in (places[place] for place in batch_places) if g is not None]
                if all(np.isnan(values).all() for g in chosen for values in by_sample[g]):
                    continue  # no answers, no gradient: not even momentum and weight decay may move the policy
                with clock.phase("pack"):
                    packed, padding_share = pack_groups(chosen, own, lengths, by_sample, cfg, memories, no_memory)
                    batch = packing.to_device(packed, parts.mesh, roles=cfg.model.lora.roles)
                if cfg.loss.engine_ratio_cap:  # now, while the parameters are still those that sampled
                    with clock.phase("reference"), jax.transfer_guard("disallow"):
                        batch = parts.correct_gap(batch, parts.fill(reached.state.params, batch))
                batches.append((padding_share, batch))
            for padding_share, batch in batches:
                if cfg.loss.kl_coef:
                    with clock.phase("reference"), jax.transfer_guard("disallow"):
                        params = reached.state.params
                        base = without_adapters(params) if parts.reference is None else parts.reference
                        seen = batch if cfg.loss.reference_sees_fast else batch.replace(fast=None)
                        batch = batch.replace(ref_logprobs=parts.fill(base, seen))
                        profile.wait(batch)
                with clock.phase("update"), jax.transfer_guard("disallow"):
                    reached.state, metrics = parts.update(reached.state, batch)
                    reached.is_whole = False
                    profile.wait(metrics)
                    losses.append((padding_share, metrics))
            with clock.phase("update"):
                losses = [(share, metrics_lib.read(metrics)) for share, metrics in losses]
            reached.done, reached.is_whole = step + 1, True
            journal.episodes_drawn += len(groups)
            asked = asked_metrics([rollout for group in groups for rollout in group])
            journal.spend(reached.done, tokens=sampled_tokens(groups), answers=asked["asked/distinct"])

            whole = [[rollout for rollout in group if not rollout.branches] for group in groups]  # first in their group
            line = {
                **rollout_metrics([rollout for group in whole for rollout in group]),
                **({} if cfg.train.resample == "keep" else resample_metrics(groups, places)),
                **reward_metrics(turns, cfg.rewards.weights, credit, keys),
                **loss_metrics(losses),
            }
            told = [g for g in recorded_groups(cfg, step, turns) if g in own]
            prompts = agreement.union({g: [prompts_of(r, decode) for r in own[g] if not r.branches] for g in told})
            with clock.phase("log"), agreement.together():
                journal.write(journal.metrics, step, line)
                journal.write_rollouts(step, _records(cfg, whole, turns, keys, by_sample, prompts))
                alarms = journal.check(step, line, [metrics["skipped_updates"] > 0 for _, metrics in losses])
                trackers.scalars(step, line)
                trackers.rollouts(step, whole, turns.terms, credit)
            spent = {f"answerer/{name}": value for name, value in answerer.spent().items()}
            spent |= {f"answerer/{name}": value for name, value in asked.items()}
            spent |= {f"budget/{name}": value for name, value in journal.spent.items()}
            timing = {**clock.tell(), **work, **spent}
            with agreement.together():
                journal.write(journal.timings, step, timing)
                trackers.scalars(step, timing)
            profile.end(step, clock.seconds)
            alarms_so_far += len(alarms)
            progress.update(reached.done, **live_values(line, timing, alarms_so_far))
            end_step(reached, journal, clock, watchdog, alarms)

        # --- after ---------------------------------------------------------------------------------------------
        progress.doing("evaluate")
        watchdog.enter("evaluate", reached.done)
        with preemption.interruptible():
            engine.set_params(reached.state.params)
            found = evaluate_all(engine, env, answerer, held_out, cfg)
            baselines = evaluate_baselines(env, answerer, held_out, cfg)
        with agreement.together():
            journal.write_evaluation(reached.done, "after", found, decode)
            trackers.evaluations(reached.done, found)
            journal.write_evaluation(reached.done, "baseline", baselines)
        with results_of(reached, journal, watchdog, workdir):
            report(cfg, workdir, policy, reached.state.params, found, baselines, journal.marks)
        return results | {f"after {name}": evaluation for name, evaluation in found.items()}


def _introduce(cfg: Config, workdir: Path, parts: Parts, progress: Progress, first: int) -> None:
    """What the run says before its first step."""
    processes = f" in {agreement.process_count()} processes" if agreement.process_count() > 1 else ""
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s){processes}"
    progress.say(f"{cfg.name}: {devices}, workdir {workdir}")
    progress.say(workdirs.summary(cfg))
    if cfg.data.eval_path:  # otherwise the benchmark itself holds out what is disjoint
        for warning in contamination((e.source for e in parts.held_out), (e.source for e in parts.episodes)):
            progress.say(warning)
    if first:
        progress.say(f"resumed at step {first} from {workdir / CHECKPOINTS}")


def _records(
    cfg: Config,
    groups: Sequence[Sequence[Rollout]],
    turns: Turns,
    keys: np.ndarray,
    by_sample: Sequence[Sequence[np.ndarray]],
    prompts: Mapping[int, Sequence[Sequence[str]]],
) -> list[Mapping[str, object]]:
    """The lines of rollouts.jsonl of a step. keys: [turns], what is compared with what. by_sample: advantages. prompts:
    of the groups that are recorded, of every sample and turn."""
    terms = {name: turns.split(term) for name, term in turns.terms.items()}
    rewards = turns.split(complete(totals(turns, cfg.rewards.weights), keys))
    return [
        group_record(groups[g], {name: term[g] for name, term in terms.items()}, rewards[g], by_sample[g], of_group)
        for g, of_group in prompts.items()
    ]
