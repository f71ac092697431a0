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

import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finemem_jax import config, exits
from finemem_jax.benchmarks import contamination
from finemem_jax.config import Config, UserError
from finemem_jax.console import Progress, tell
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.credit import complete
from finemem_jax.env.environment import Environment, training_questions
from finemem_jax.env.episodes import longest, stream_indices
from finemem_jax.env.probing import check_probing
from finemem_jax.env.rehearsal import rehearse
from finemem_jax.env.settings import settings_file
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.env.turns import advantages, asks_chunk_questions, compared, tabulate, totals
from finemem_jax.evaluate import Evaluation, evaluate_all, evaluate_baselines, headline, print_comparison
from finemem_jax.evaluation.records import group_record, write_heldout
from finemem_jax.exits import RunEnded
from finemem_jax.files import holds_numbers, is_evaluation, read_lines, write_atomically
from finemem_jax.hosts import agreement
from finemem_jax.loading import (
    Policy,
    check_answerer,
    fit_prompts,
    load_answerer,
    load_environment,
    load_held_out,
    load_judge,
    load_mesh,
    load_policy,
    load_rewarded,
)
from finemem_jax.nn.lora import without_adapters
from finemem_jax.plan.formula import check_memory
from finemem_jax.reporting.plots import plot_run
from finemem_jax.reporting.report import write_report
from finemem_jax.reporting.trackers import Trackers
from finemem_jax.rewards._balance import forgetting_pays
from finemem_jax.rl import metrics as metrics_lib
from finemem_jax.rl.grpo import correct_engine_gap
from finemem_jax.rl.train_state import TrainState, create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_train_step, state_shardings
from finemem_jax.rollouts import packing
from finemem_jax.rollouts.collect import Job, collect_rollouts, warm_up
from finemem_jax.rollouts.groups import (
    check_groups,
    check_prefixes,
    mini_batches,
    own_groups,
    pack_groups,
    share_groups,
)
from finemem_jax.rollouts.metrics import asked_metrics, loss_metrics, reward_metrics, rollout_metrics
from finemem_jax.run import workdir as workdirs
from finemem_jax.run.clock import Clock
from finemem_jax.run.ending import ended
from finemem_jax.run.journal import CHECKPOINTS, Journal, say, scores
from finemem_jax.run.preemption import Preempted, Preemption
from finemem_jax.run.profiling import Profile
from finemem_jax.run.watchdog import Watchdog
from finemem_jax.types import Answerer, Episode, Rollout, Sampling
from finemem_jax.weights import hf
from finemem_jax.weights.checkpoints import Checkpoints, reason
from finemem_jax.weights.export_folder import claim_place


def train(cfg: Config, workdir: Path, *, accept_config_change: bool = False) -> dict[str, Evaluation]:
    """Trains for `cfg.train.steps` steps, resuming from the newest checkpoint in `workdir`.

    Returns the evaluations before and after, by "when policy", e.g. "after greedy". Files of the run:
    config.json, metrics.jsonl (a function of the seed, byte for byte), evaluations.jsonl and alarms.jsonl likewise,
    rollouts.jsonl and heldout/ (what was written and answered), timings.jsonl, report.html, checkpoints/, curves.png,
    and hf/, the trained policy as a Hugging Face folder.
    Raises RunEnded when it ends early on purpose, with the state saved: preemption, an alarm, a failed part.
    """
    lock = workdirs.locked(workdir) if agreement.is_lead() else contextlib.nullcontext()
    with lock, Preemption(cfg.guards.grace) as preemption:
        try:
            return _train(cfg, workdir, preemption, accept_config_change)
        except Preempted:
            raise RunEnded(f"{preemption.reason} during the setup: nothing to save", preemption.code) from None


def _train(cfg: Config, workdir: Path, preemption: Preemption, accept_config_change: bool) -> dict[str, Evaluation]:
    # --- setup -------------------------------------------------------------------------------------------------
    with preemption.interruptible():
        changed = workdirs.claim(cfg, workdir, accept_change=accept_config_change)
        agreement.require_same({"code": workdirs.code_version(), **workdirs.flat(config.to_dict(cfg))}, "config")
        agreement.require_shared(workdir)
        claim_place(workdir / "hf")
        if changed:
            say(f"the config of {workdir} changes: {'; '.join(changed)}")
        check_answerer(cfg)
        check_probing(cfg)
        mesh = load_mesh(cfg)
        check_groups(cfg, agreement.process_count())
        check_prefixes(cfg, jax.default_backend())
        if mesh is not None:
            packing.check_rows(mesh, cfg.train.microbatch_rows, agreement.process_count())
        check_memory(cfg)
        episodes, held_out = load_rewarded(cfg), load_held_out(cfg)  # first: a bad row is found before weights are read
        policy = load_policy(cfg, mesh)
        env = load_environment(cfg, policy.tokenizer, load_judge(cfg, workdir))
        rehearse(env, cfg.rewards, cfg.advantage)
        drawn = episode_indices(len(episodes), cfg.seed, 0, min(cfg.train.steps * cfg.train.episodes, len(episodes)))
        episodes, held_out = fit_prompts(episodes, env, cfg, sorted(drawn)), fit_prompts(held_out, env, cfg)
        if warning := forgetting_pays(cfg.rewards, longest(episodes)):
            say(warning)
        answerer = load_answerer(cfg, workdir)
        optimizer = make_optimizer(cfg.optimizer, max(cfg.train.steps * cfg.train.epochs * cfg.train.mini_batches, 1))
        state = create_train_state(policy.params, optimizer)
        update = make_train_step(
            policy.model,
            optimizer,
            cfg.loss,
            temperature=cfg.train.temperature,
            chunk=cfg.train.logprob_chunk,
            shardings=state_shardings(state) if mesh is not None else None,
            mesh=mesh,
        )
        fill = make_fill_logprobs(
            policy.model, temperature=cfg.train.temperature, chunk=cfg.train.logprob_chunk, mesh=mesh
        )
        correct_gap = jax.jit(partial(correct_engine_gap, cap=cfg.loss.engine_ratio_cap))
        # The update donates its state, so a reference of its own needs buffers of its own. With LoRA the reference
        # is the policy's frozen base, and there is no second copy.
        reference = jax.tree.map(jnp.copy, policy.params) if cfg.loss.kl_coef and not cfg.model.lora.rank else None
        journal = Journal(cfg, workdir)
        state, first = journal.resume(state)
        if agreement.is_lead():
            workdirs.store_config(cfg, workdir, changed, first)
        engine = Engine(policy.model, agreement.gather_params(policy.model, state.params), cfg.engine)
        if cfg.engine.warm_up:
            warm_up(engine)
        trackers = Trackers(
            cfg.logging, workdir, name=cfg.name, config=config.to_dict(cfg), first=first, is_lead=agreement.is_lead()
        )
        profile = Profile(cfg.profile, workdir, is_lead=agreement.is_lead())

    def evaluate_now() -> dict[str, Evaluation]:
        engine.set_params(agreement.gather_params(policy.model, state.params))
        return evaluate_all(engine, env, answerer, held_out, cfg)

    def record(step: int, when: str, found: Mapping[str, Evaluation]) -> None:
        with agreement.together():
            if when != "baseline":
                journal.write_evaluation(step, {name: evaluation.metrics for name, evaluation in found.items()})
                for name, evaluation in found.items():
                    trackers.evaluation(step, name, evaluation.metrics)
            if agreement.is_lead():
                rollouts = {name: evaluation.rollouts for name, evaluation in found.items()}
                journal.attempt("heldout/", write_heldout, workdir, when, rollouts, cfg.eval.log_rollouts)

    done, results, alarms_so_far, clock = first, {}, 0, None
    is_whole = True  # `state` is that after `done` steps; not so between the updates of a step
    progress = Progress(cfg.train.steps, "train", is_muted=not agreement.is_lead())
    watchdog = Watchdog(cfg.guards.stall, workdir, engine.describe, agreement.process_index())
    try:
        with progress, watchdog, trackers, profile:
            processes = f" in {agreement.process_count()} processes" if agreement.process_count() > 1 else ""
            devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s){processes}"
            progress.say(f"{cfg.name}: {devices}, workdir {workdir}")
            progress.say(workdirs.summary(cfg))
            if cfg.data.eval_path:  # otherwise the benchmark itself holds out what is disjoint
                for warning in contamination((e.source for e in held_out), (e.source for e in episodes)):
                    progress.say(warning)
            if first:
                progress.say(f"resumed at step {first} from {workdir / CHECKPOINTS}")

            # --- steps -----------------------------------------------------------------------------------------
            for step in range(first, cfg.train.steps):
                preemption.check(step)
                clock = Clock(watchdog, progress, step, before=clock)
                profile.begin(step)
                work = {}
                if journal.needs_evaluation(step):
                    with clock.phase("evaluate"), preemption.interruptible():
                        found = evaluate_now()
                    work |= engine_metrics("engine/evaluate", engine, clock.seconds["seconds/evaluate"])
                    named = {f"step {step} {name}" if step else f"before {name}": e for name, e in found.items()}
                    results |= {} if step else named
                    progress.say(headline(f"step {step}" if step else "before", named))
                    record(step, "after" if step else "before", found)

                with clock.phase("rollout"), preemption.interruptible():
                    engine.set_params(agreement.gather_params(policy.model, state.params))
                    with agreement.together():
                        own = collect_groups(
                            engine, env, answerer, episodes, cfg, clock, step=step, position=journal.episodes_drawn
                        )
                    groups, lengths = share_groups(own, env, share_prefixes=cfg.train.share_prefixes)
                    engine.release()  # the update needs the memory; what it held is of parameters that end here
                work |= engine_metrics("engine", engine, clock.seconds["seconds/rollout"])
                with clock.phase("reward"), agreement.together():
                    turns = tabulate(groups, cfg.rewards, env.count_tokens)
                    together = compared(turns, cfg.advantage)
                    credit = advantages(turns, cfg.rewards.weights, cfg.advantage)
                    by_sample = turns.split(credit)
                losses, batches = [], []
                for chosen in mini_batches(cfg, step, len(groups)):
                    if all(np.isnan(values).all() for g in chosen for values in by_sample[g]):
                        continue  # no answers, no gradient: not even momentum and weight decay may move the policy
                    with clock.phase("pack"):
                        packed, padding_share = pack_groups(chosen, own, lengths, by_sample, cfg)
                        batch = packing.to_device(packed, mesh)
                    if cfg.loss.engine_ratio_cap:  # now, while the parameters are still those that sampled
                        with clock.phase("reference"):
                            batch = correct_gap(batch, fill(state.params, batch))
                    batches.append((padding_share, batch))
                for padding_share, batch in batches:
                    if cfg.loss.kl_coef:
                        with clock.phase("reference"):
                            base = without_adapters(state.params) if reference is None else reference
                            batch = batch.replace(ref_logprobs=fill(base, batch))
                            profile.wait(batch)
                    with clock.phase("update"):
                        state, metrics = update(state, batch)
                        is_whole = False
                        profile.wait(metrics)
                        losses.append((padding_share, metrics))
                with clock.phase("update"):
                    losses = [(share, metrics_lib.read(metrics)) for share, metrics in losses]
                done, is_whole = step + 1, True
                journal.episodes_drawn += cfg.train.episodes

                line = {
                    **rollout_metrics([r for g in groups for r in g]),
                    **reward_metrics(turns, cfg.rewards.weights, credit, together),
                    **loss_metrics(losses),
                }
                with clock.phase("log"), agreement.together():
                    journal.write(journal.metrics, step, line)
                    terms = {name: turns.split(term) for name, term in turns.terms.items()}
                    rewards = turns.split(complete(totals(turns, cfg.rewards.weights), together))
                    for g, group in enumerate(groups[: cfg.train.log_rollouts]):
                        record_of = group_record(
                            group, {name: term[g] for name, term in terms.items()}, rewards[g], by_sample[g]
                        )
                        journal.write(journal.rollouts, step, record_of)
                    alarms = journal.guards.check(line, [metrics["skipped_updates"] > 0 for _, metrics in losses])
                    journal.sound(alarms, step)
                    trackers.scalars(step, line)
                    trackers.rollouts(step, groups, turns.terms, credit)
                spent = {f"answerer/{name}": value for name, value in answerer.spent().items()}
                asked = {f"answerer/{n}": v for n, v in asked_metrics([r for g in groups for r in g]).items()}
                timing = {**clock.tell(), **work, **spent, **asked}
                with agreement.together():
                    journal.write(journal.timings, step, timing)
                    trackers.scalars(step, timing)
                if journal.needs_checkpoint(done):
                    with clock.phase("checkpoint"):
                        journal.save(done, state)
                profile.end(step, clock.seconds)
                alarms_so_far += len(alarms)
                progress.update(done, **live_values(line, timing, alarms_so_far))
                watchdog.step_finished()
                with agreement.together():
                    for alarm in alarms:
                        if alarm.action == "stop":
                            raise RunEnded(f"step {step}: {alarm}", exits.STOPPED)

            # --- after -----------------------------------------------------------------------------------------
            progress.doing("evaluate")
            watchdog.enter("evaluate", done)
            with preemption.interruptible():
                found = evaluate_now()
                baselines = evaluate_baselines(env, answerer, held_out, cfg)
            record(done, "after", found)
            record(done, "baseline", baselines)
            results |= {f"after {name}": evaluation for name, evaluation in found.items()}
            watchdog.enter("export", done)
            try:
                report(cfg, workdir, policy, state, results, baselines)
            except OSError as error:
                why = f"the results of {workdir} could not be written ({reason(error)})"
                raise RunEnded(why, exits.STOPPED) from error
            if not journal.finish(done, state):
                raise RunEnded(f"the last checkpoint of {workdir} could not be written", exits.STOPPED)
            watchdog.enter("done", done)
            return results
    except (Exception, Preempted) as error:
        end = ended(error, journal, done, state, preemption, is_whole=is_whole)
        if end is error:
            raise
        raise end from None


# --------------------------------------------------------------------------------------------------------------
# The parts of a step
# --------------------------------------------------------------------------------------------------------------


def collect_groups(
    engine: Engine,
    env: Environment,
    answerer: Answerer,
    episodes: Sequence[Episode],
    cfg: Config,
    clock: Clock,
    *,
    step: int,
    position: int,
) -> dict[int, list[Rollout]]:
    """This process's groups of a step, by number. The step has a group of `train.group_size` rollouts for each of the
    `train.episodes` episodes from `position` on."""
    asks_chunks = asks_chunk_questions(cfg.rewards)
    mine = set(own_groups(cfg, step, agreement.process_index(), agreement.process_count()))
    jobs = []
    for group, index in enumerate(episode_indices(len(episodes), cfg.seed, position, cfg.train.episodes)):
        if group in mine:
            episode = episodes[index]
            seed = f"questions {cfg.seed} {step} {group} {episode.id}"
            asked = training_questions(episode, cfg.rewards, asks_chunks=asks_chunks, seed=seed)
            jobs += [Job(episode, asked, group, sample) for sample in range(cfg.train.group_size)]
    sampling = Sampling(
        temperature=cfg.train.temperature,
        max_tokens=cfg.prompt.max_completion_tokens,
        stop_tokens=stop_tokens(env.tokenizer),
    )
    groups: dict[int, list[Rollout]] = {group: [] for group in sorted(mine)}
    answering = clock.phase("answer")
    for rollout in collect_rollouts(
        engine, env, answerer, jobs, sampling, seed=cfg.seed, step=step, answering=answering
    ):
        groups[rollout.group].append(rollout)
    return groups


def episode_indices(available: int, seed: int, position: int, count: int) -> list[int]:
    """`count` episodes of the endless stream of training episodes, from `position` on."""
    return stream_indices(available, seed, range(position, position + count))


# --------------------------------------------------------------------------------------------------------------
# What a step logs
# --------------------------------------------------------------------------------------------------------------


def engine_metrics(prefix: str, engine: Engine, seconds: float) -> dict[str, float]:
    """What the engine did in the phase that has just ended and took so many seconds."""
    stats = engine.reset_stats()
    return {
        f"{prefix}/occupancy": stats.occupancy,
        f"{prefix}/completions": stats.completions,
        f"{prefix}/sampled_tokens": stats.sampled_tokens,
        f"{prefix}/tokens_per_second": stats.sampled_tokens / seconds if seconds else 0.0,
        f"{prefix}/device_seconds": stats.device_seconds,
        f"{prefix}/host_seconds": stats.host_seconds,
        f"{prefix}/shapes": len(stats.shapes),
    }


def live_values(line: Mapping[str, float], timing: Mapping[str, float], alarms: int) -> dict[str, float | str]:
    """What the live view shows of a step."""
    terms: dict[str, float | str] = {
        name.removeprefix("reward/"): value for name, value in line.items() if name.startswith("reward/")
    }
    shown = {"reward": terms.pop("total", "missing"), **terms, "accuracy": line.get("accuracy", "missing")}
    shown |= {
        "valid": line["valid_operations"],
        "memory tokens": line["memory_tokens"],
        "tokens/s": timing["engine/tokens_per_second"],
    }
    return shown | {"occupancy": timing["engine/occupancy"]} | ({"ALARMS": alarms} if alarms else {})


# --------------------------------------------------------------------------------------------------------------
# The files of a run
# --------------------------------------------------------------------------------------------------------------


def report(
    cfg: Config,
    workdir: Path,
    policy: Policy,
    state: TrainState,
    results: dict[str, Evaluation],
    baselines: dict[str, Evaluation],
) -> None:
    """The final table, results.json, the curves and the Hugging Face folder."""
    after = {name: evaluation.metrics for name, evaluation in results.items() if name.startswith("after")}
    table = {**{name: e.metrics for name, e in baselines.items()}, **after}
    if agreement.is_lead():
        evaluations = read_lines(workdir / "evaluations.jsonl", is_evaluation)
        before = {f"before {line['policy']}": line for line in evaluations if line["step"] == 0}
        table = {**{name: e.metrics for name, e in baselines.items()}, **before, **after}
        write_atomically(workdir / "results.json", json.dumps(table, indent=1))
        print_comparison(f"{cfg.name}: held-out episodes ({cfg.eval.episodes or 'all'})", table, cfg)
        plot_run(
            workdir / "curves.png",
            read_lines(workdir / "metrics.jsonl", holds_numbers),
            evaluations,
            {name: e.metrics["accuracy"] for name, e in baselines.items()},
            cfg.name,
        )
    metrics = {f"held-out accuracy, {name}": row["accuracy"] for name, row in table.items()}
    save_policy(cfg, workdir / "hf", policy, state.params, metrics)
    if agreement.is_lead():
        tell(f"report: {write_report(workdir)}\ncurves: {workdir / 'curves.png'}")
        tell(f"policy: {workdir / 'hf'} (Hugging Face format)")


def save_policy(
    cfg: Config,
    out: Path,
    policy: Policy,
    params: Any,
    metrics: Mapping[str, float | None] | None = None,
    *,
    peft: bool = False,
) -> None:
    """A Hugging Face folder of the whole model, adapters merged in; with `peft`, a PEFT folder of the adapters."""
    if peft:
        hf.save_adapters(out, policy.model, params, base_model=cfg.model.path, tokenizer=policy.tokenizer)
    else:
        run, files = config.to_dict(cfg), settings_file(cfg)
        hf.save_pretrained(out, policy.model, params, policy.tokenizer, run_config=run, metrics=metrics, files=files)


def export(workdir: Path, out: Path, *, peft: bool = False, checkpoint: str = "latest") -> None:
    """Writes the parameters of a checkpoint of a run: a Hugging Face folder, or its adapters for PEFT.

    checkpoint: "latest", "best" (by held-out accuracy) or a step."""
    out = claim_place(out)
    cfg = workdirs.stored_config(workdir)
    if not (workdir / CHECKPOINTS).is_dir():
        raise UserError(f"no checkpoint in {workdir}")
    policy = load_policy(cfg)
    step, params = restore_params(workdir, policy.params, checkpoint)
    save_policy(cfg, out, policy, params, peft=peft)
    tell(f"step {step} of {workdir} -> {out}")


def restore_params(workdir: Path, params: Any, checkpoint: str = "latest") -> tuple[int, Any]:
    """(step, parameters) of the checkpoint "latest", "best" or a step of a run; its optimizer is not read."""
    checkpoints = Checkpoints(workdir / CHECKPOINTS, keep=1, scores=scores(workdir), read_only=True)
    if checkpoint == "latest":
        return checkpoints.restore_params_at(params)
    step = checkpoints.best() if checkpoint == "best" else int(checkpoint) if checkpoint.isdecimal() else None
    if step is None:
        known = f"latest, best (steps with an evaluation: {sorted(scores(workdir))}), or one of {checkpoints.steps()}"
        raise UserError(f"no checkpoint {checkpoint!r} in {workdir}; there are: {known}")
    return checkpoints.restore_params_at(params, step)
