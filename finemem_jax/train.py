"""The training loop; read this first.

One step of Fine-Mem with GRPO:

    1. rollouts     G samples of each episode, written by the present policy through the engine (collect.py)
    2. rewards      per step t: format, chunk questions, evidence, compression (rewards/, env/step_rewards.py)
    3. advantages   normalised over the group at the same step t (env/credit.py)
    4. packing      one training sequence = one (rollout, step): prompt and the tokens that were sampled
    5. update       clipped policy gradient, KL to the reference (rl/grpo.py), in mini-batches of whole groups

Deviations from the paper, all in the config: a floor under the group's deviation (advantage.min_std), a write
budget in the environment (memory.max_operations), credit of unanchored questions spread evenly (conservation).

Everything the loop draws is keyed by (seed, step, episode, sample, t), so a run is a function of its config, and
a run that stops at step k and resumes is the run that did not stop.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finemem_jax import __version__, config, distributed, packing
from finemem_jax.benchmarks import contamination
from finemem_jax.collect import Job, collect_rollouts
from finemem_jax.config import Config, UserError, resolve
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.credit import group_advantages
from finemem_jax.env.environment import Environment, training_questions
from finemem_jax.env.episodes import stream_indices
from finemem_jax.env.step_rewards import StepRewards, asks_chunk_questions, step_rewards, variance_shares
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.evaluate import Evaluation, evaluate_all, evaluate_baselines, headline, print_comparison
from finemem_jax.nn.lora import without_adapters
from finemem_jax.packing import TrainSequence
from finemem_jax.policy import Policy, load_answerer, load_environment, load_mesh, load_policy
from finemem_jax.reporting.plots import plot_run
from finemem_jax.reporting.progress import Progress
from finemem_jax.reporting.records import JsonLines, read_lines, write_atomically
from finemem_jax.reporting.report import write_report
from finemem_jax.reporting.rollout_records import group_record, write_heldout
from finemem_jax.rl import metrics as metrics_lib
from finemem_jax.rl.train_state import TrainState, create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_train_step, state_shardings
from finemem_jax.types import Answerer, Episode, Rollout, Sampling
from finemem_jax.weights import hf
from finemem_jax.weights.checkpoints import Checkpoints


def train(cfg: Config, workdir: Path) -> dict[str, Evaluation]:
    """Trains for `cfg.train.steps` steps, resuming from the newest checkpoint in `workdir`.

    Returns the evaluations before and after, by "when policy", e.g. "after greedy". Files of the run:
    config.json, metrics.jsonl (a function of the seed, byte for byte), timings.jsonl, evaluations.jsonl,
    rollouts.jsonl and heldout/ (what was written and answered), report.html, checkpoints/, curves.png, and hf/, the
    trained policy as a Hugging Face folder.
    """
    # --- setup -------------------------------------------------------------------------------------------------
    refuse_other_config(cfg, workdir)
    mesh = load_mesh(cfg)
    policy = load_policy(cfg, mesh)
    env = load_environment(cfg, policy.tokenizer)
    answerer = load_answerer(cfg, workdir)
    benchmark = resolve("finemem_jax.benchmarks", cfg.data.name)
    episodes = benchmark.load(cfg.data, "train", cfg.seed)
    held_out = benchmark.load(cfg.data, "eval", cfg.seed)
    held_out = [held_out[i] for i in range(min(cfg.eval.episodes or len(held_out), len(held_out)))]
    if len(episodes) == 0 or len(held_out) == 0:
        raise UserError(f"config.data: {len(episodes)} training and {len(held_out)} held-out episodes")
    write_atomically(workdir / "config.json", json.dumps(config.to_dict(cfg), indent=1))

    updates = cfg.train.steps * cfg.train.epochs * cfg.train.mini_batches
    optimizer = make_optimizer(cfg.optimizer, max(updates, 1))
    state = create_train_state(policy.params, optimizer)
    update = make_train_step(
        policy.model,
        optimizer,
        cfg.loss,
        temperature=cfg.train.temperature,
        chunk=cfg.train.logprob_chunk,
        shardings=state_shardings(state) if mesh is not None else None,
    )
    fill = make_fill_logprobs(policy.model, temperature=cfg.train.temperature, chunk=cfg.train.logprob_chunk)
    # The update donates its state, so a reference of its own needs buffers of its own. With LoRA the reference is
    # the policy's frozen base, and there is no second copy.
    reference = jax.tree.map(jnp.copy, policy.params) if cfg.loss.kl_coef and not cfg.model.lora.rank else None

    checkpoints = Checkpoints(workdir / "checkpoints", keep=cfg.train.keep_checkpoints)
    first = 0
    if checkpoints.latest() is not None:
        state, extra = checkpoints.restore(state)
        first = extra["next_step"]
    engine = Engine(policy.model, state.params, cfg.engine)
    metrics_log = JsonLines(workdir / "metrics.jsonl", keep_below=first)
    timings_log = JsonLines(workdir / "timings.jsonl", keep_below=first)
    rollouts_log = JsonLines(workdir / "rollouts.jsonl", keep_below=first)
    # The evaluation before step 0 stands at step 0; the one after step k - 1 at step k. The last is always made anew.
    kept = first + 1 if 0 < first < cfg.train.steps else first
    evaluations_log = JsonLines(workdir / "evaluations.jsonl", keep_below=kept)

    def evaluate_now(step: int) -> dict[str, Evaluation]:
        engine.set_params(state.params)
        found = evaluate_all(engine, env, answerer, held_out, cfg)
        for name, evaluation in found.items():
            evaluations_log.write(step, {"policy": name, **evaluation.metrics})
        record_evaluation("after" if step else "before", found)
        return found

    def record_evaluation(when: str, found: dict[str, Evaluation]) -> None:
        if distributed.is_lead():
            rollouts = {name: evaluation.rollouts for name, evaluation in found.items()}
            write_heldout(workdir, when, rollouts, cfg.eval.log_rollouts)

    results: dict[str, Evaluation] = {}
    with Progress(cfg.train.steps, "train") as progress:
        if cfg.data.eval_path:  # otherwise the benchmark itself holds out what is disjoint
            for line in contamination((e.source for e in held_out), (e.source for e in episodes)):
                progress.say(line)
        progress.say(f"{cfg.name}: {jax.device_count()} {jax.devices()[0].platform} device(s), workdir {workdir}")
        if first == 0:
            results |= {f"before {name}": found for name, found in evaluate_now(0).items()}
            progress.say(headline("before", results))
        else:
            progress.say(f"resumed at step {first} from {workdir / 'checkpoints'}")

        # --- steps ---------------------------------------------------------------------------------------------
        for step in range(first, cfg.train.steps):
            clock = _Clock()
            engine.set_params(state.params)
            groups = collect_groups(engine, env, answerer, episodes, cfg, step)
            clock.mark("rollout")

            rewards = step_rewards(groups, cfg.rewards, env.count_tokens)
            advantages = group_advantages(
                rewards.total, std=cfg.advantage.std, eps=cfg.advantage.eps, min_std=cfg.advantage.min_std
            )
            clock.mark("reward")

            losses = []
            for chosen in mini_batches(cfg, step, len(groups)):
                packed = pack_groups([groups[g] for g in chosen], advantages[chosen], cfg)
                batch = packing.to_device(packed, mesh)
                if cfg.loss.kl_coef:
                    base = without_adapters(state.params) if reference is None else reference
                    batch = batch.replace(ref_logprobs=fill(base, batch))
                state, metrics = update(state, batch)
                losses.append((packed.padding_share, metrics))
            losses = [(share, metrics_lib.read(metrics)) for share, metrics in losses]
            clock.mark("update")

            line = {
                **rollout_metrics([r for g in groups for r in g]),
                **reward_metrics(rewards, advantages, cfg.rewards.weights),
                **loss_metrics(losses),
            }
            metrics_log.write(step, line)
            for g, group in enumerate(groups[: cfg.train.log_rollouts]):
                terms = {name: term[g] for name, term in rewards.terms.items()}
                rollouts_log.write(step, group_record(group, terms, rewards.total[g], advantages[g]))
            done = step + 1
            if cfg.train.eval_every and done % cfg.train.eval_every == 0 and done < cfg.train.steps:
                found = evaluate_now(done)
                progress.say(headline(f"step {done}", {f"step {name}": e for name, e in found.items()}))
                clock.mark("evaluate")
            if done % cfg.train.checkpoint_every == 0 or done == cfg.train.steps:
                checkpoints.save(done, state, {"next_step": done, "version": __version__})
                clock.mark("checkpoint")
            timings_log.write(step, {**clock.seconds, **engine_metrics(engine)})
            progress.update(
                done, reward=line["reward/total"], accuracy=line["accuracy"], valid=line["valid_operations"]
            )

        # --- after ---------------------------------------------------------------------------------------------
        results |= {f"after {name}": found for name, found in evaluate_now(cfg.train.steps).items()}
    checkpoints.wait()
    baselines = evaluate_baselines(env, answerer, held_out, cfg)
    record_evaluation("baseline", baselines)
    if distributed.is_lead():
        report(cfg, workdir, policy, state, results, baselines)
    return results


# --------------------------------------------------------------------------------------------------------------
# The parts of a step
# --------------------------------------------------------------------------------------------------------------


def collect_groups(
    engine: Engine, env: Environment, answerer: Answerer, episodes: Sequence[Episode], cfg: Config, step: int
) -> list[list[Rollout]]:
    """The groups of one step: `train.episodes` episodes, `train.group_size` rollouts of each."""
    asks_chunks = asks_chunk_questions(cfg.rewards)
    jobs = []
    for group, index in enumerate(episode_indices(len(episodes), cfg.seed, step, cfg.train.episodes)):
        episode = episodes[index]
        seed = f"questions {cfg.seed} {step} {episode.id}"
        asked = training_questions(episode, cfg.rewards, asks_chunks=asks_chunks, seed=seed)
        jobs += [Job(episode, asked, group, sample) for sample in range(cfg.train.group_size)]
    sampling = Sampling(
        temperature=cfg.train.temperature,
        max_tokens=cfg.prompt.max_completion_tokens,
        stop_tokens=stop_tokens(env.tokenizer),
    )
    rollouts = collect_rollouts(engine, env, answerer, jobs, sampling, seed=cfg.seed, step=step)
    size = cfg.train.group_size
    return [rollouts[start : start + size] for start in range(0, len(rollouts), size)]


def episode_indices(available: int, seed: int, step: int, count: int) -> list[int]:
    """The episodes of a step: the next `count` of the stream, whose position is a function of the step."""
    return stream_indices(available, seed, range(step * count, (step + 1) * count))


def mini_batches(cfg: Config, step: int, groups: int) -> list[list[int]]:
    """Which groups go into which update: whole groups, another order in every pass."""
    size = groups // cfg.train.mini_batches
    chosen = []
    for epoch in range(cfg.train.epochs):
        order = random.Random(f"mini-batches {cfg.seed} {step} {epoch}").sample(range(groups), groups)
        chosen += [order[start : start + size] for start in range(0, groups, size)]
    return chosen


def pack_groups(groups: Sequence[Sequence[Rollout]], advantages: np.ndarray, cfg: Config) -> packing.PackedRows:
    """Every step of every rollout as one sequence with the advantage [groups, samples, steps] of that step."""
    sequences, values = [], []
    for g, group in enumerate(groups):
        for s, rollout in enumerate(group):
            for t, step in enumerate(rollout.steps):
                completion = step.completion
                sequences.append(TrainSequence(step.prompt_tokens, completion.tokens, completion.logprobs))
                values.append(advantages[g, s, t])
    longest = cfg.prompt.max_prompt_tokens + cfg.prompt.max_completion_tokens
    row_tokens = cfg.train.row_tokens or packing.choose_row_tokens(
        [len(sequence) for sequence in sequences], longest, cfg.train.microbatch_rows
    )
    return packing.pack_rollouts(
        sequences,
        np.array(values, np.float32),
        cfg.loss,
        row_tokens=row_tokens,
        microbatch_rows=cfg.train.microbatch_rows,
    )


class _Clock:
    """Wall-clock seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds/{phase}"] = now - self._last
        self._last = now


# --------------------------------------------------------------------------------------------------------------
# What a step logs
# --------------------------------------------------------------------------------------------------------------


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What the policy wrote in a step's rollouts."""
    steps = [step for rollout in rollouts for step in rollout.steps]
    outcomes = [outcome for step in steps for outcome in step.outcomes]
    final = [a.score for r in rollouts for a in r.answers if a.step is None and a.score is not None]
    return {
        "accuracy": float(np.mean(final)) if final else 0.0,
        "valid_operations": float(np.mean([o.ok for o in outcomes])) if outcomes else 0.0,
        "operations_per_step": len(outcomes) / max(len(steps), 1),
        "updates_per_step": sum(
            o.ok and p.name == "memory_update"
            for step in steps
            for p, o in zip(step.operations, step.outcomes, strict=True)
        )
        / max(len(steps), 1),
        "memory_tokens": float(np.mean([r.steps[-1].memory_after.tokens() for r in rollouts])),
        "completion_tokens": float(np.mean([len(s.completion.tokens) for s in steps])),
        "unfinished": float(np.mean([s.completion.finish == "length" for s in steps])),
    }


def reward_metrics(rewards: StepRewards, advantages: np.ndarray, weights: Mapping[str, float]) -> dict[str, float]:
    """Of every term: mean, spread in groups, share of the advantages' variance. How many groups carry a gradient."""
    line = {"reward/total": float(np.nanmean(rewards.total))}
    for name, term in rewards.terms.items():
        if np.isnan(term).all():
            continue
        line[f"reward/{name}"] = float(np.nanmean(term))
        centred = term - np.nanmean(term, axis=1, keepdims=True)
        line[f"spread/{name}"] = float(np.sqrt(np.nanmean(centred**2)))
    shares = variance_shares(rewards, weights, advantages)
    line |= {f"share/{name}": share for name, share in shares.items()}
    live = np.nan_to_num(np.abs(advantages)).max(axis=1) > 0  # [groups, steps]
    line["groups_with_gradient"] = float(live.mean())
    line["missing_rewards"] = float(rewards.missing)
    return line


def loss_metrics(losses: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Means over the step's updates. "first_…" is of the first, where the importance ratio is 1 but for rounding."""
    names = losses[0][1]
    line = {f"loss/{name}": float(np.mean([values[name] for _, values in losses])) for name in names}
    line["loss/first_log_ratio_abs_max"] = losses[0][1]["log_ratio_abs_max"]
    line["padding_share"] = float(np.mean([share for share, _ in losses]))
    return line


def engine_metrics(engine: Engine) -> dict[str, float]:
    stats = engine.reset_stats()
    return {
        "engine/occupancy": stats.occupancy,
        "engine/completions": stats.completions,
        "engine/sampled_tokens": stats.sampled_tokens,
        "engine/device_seconds": stats.device_seconds,
        "engine/host_seconds": stats.host_seconds,
        "engine/shapes": len(stats.shapes),
    }


# --------------------------------------------------------------------------------------------------------------
# The files of a run
# --------------------------------------------------------------------------------------------------------------


def refuse_other_config(cfg: Config, workdir: Path) -> None:
    """A workdir belongs to one config: raises UserError with the difference when it holds a run with another."""
    path = workdir / "config.json"
    if not path.exists():
        return
    old, new = (_flat(json.loads(text)) for text in (path.read_text("utf-8"), json.dumps(config.to_dict(cfg))))
    changed = [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted(old | new) if old.get(k) != new.get(k)]
    if changed:
        difference = "; ".join(changed)
        raise UserError(f"{workdir} holds a run with another config ({difference}): choose another --workdir")


def _flat(tree: dict, prefix: str = "config") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return flat


def stored_config(workdir: Path) -> Config:
    """The config of the run in `workdir`."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"no run in {workdir}: {path.name} is missing")
    return config.from_ml_collections(json.loads(path.read_text(encoding="utf-8")))


def report(
    cfg: Config,
    workdir: Path,
    policy: Policy,
    state: TrainState,
    results: dict[str, Evaluation],
    baselines: dict[str, Evaluation],
) -> None:
    """The final table, results.json, the curves and the Hugging Face folder."""
    evaluations = read_lines(workdir / "evaluations.jsonl")
    before = {f"before {line['policy']}": line for line in evaluations if line["step"] == 0}
    after = {name: evaluation.metrics for name, evaluation in results.items() if name.startswith("after")}
    table = {**{name: e.metrics for name, e in baselines.items()}, **before, **after}
    write_atomically(workdir / "results.json", json.dumps(table, indent=1))
    print_comparison(f"{cfg.name}: held-out episodes ({cfg.eval.episodes})", table)
    plot_run(
        workdir / "curves.png",
        read_lines(workdir / "metrics.jsonl"),
        evaluations,
        {name: e.metrics["accuracy"] for name, e in baselines.items()},
        cfg.name,
    )
    metrics = {f"held-out accuracy, {name}": row["accuracy"] for name, row in table.items()}
    save_policy(cfg, workdir / "hf", policy, state.params, metrics)
    print(f"report: {write_report(workdir)}\ncurves: {workdir / 'curves.png'}")
    print(f"policy: {workdir / 'hf'} (Hugging Face format)")


def save_policy(
    cfg: Config, out: Path, policy: Policy, params: Any, metrics: dict[str, float] | None = None, *, peft: bool = False
) -> None:
    """A Hugging Face folder of the whole model, adapters merged in; with `peft`, a PEFT folder of the adapters."""
    if peft:
        hf.save_adapters(out, policy.model, params, base_model=cfg.model.path, tokenizer=policy.tokenizer)
    else:
        run = config.to_dict(cfg)
        hf.save_pretrained(out, policy.model, params, policy.tokenizer, run_config=run, metrics=metrics)


def export(workdir: Path, out: Path, *, peft: bool = False) -> None:
    """Writes the parameters of the newest checkpoint of a run: a Hugging Face folder, or its adapters for PEFT."""
    cfg = stored_config(workdir)
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"no checkpoint in {workdir}")
    policy = load_policy(cfg)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=cfg.train.keep_checkpoints)
    params = checkpoints.restore_params(policy.params)
    save_policy(cfg, out, policy, params, peft=peft)
    print(f"step {checkpoints.latest()} of {workdir} -> {out}")
