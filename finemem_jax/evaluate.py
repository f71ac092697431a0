"""A policy or a scripted baseline over held-out episodes -> metrics and records."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finemem_jax.benchmarks import contamination, with_reference_metrics
from finemem_jax.collect import Job, collect_rollouts, play_scripted
from finemem_jax.config import Config, UserError, resolve, unknown
from finemem_jax.decoding.engine import Engine
from finemem_jax.env import scripted
from finemem_jax.env.environment import Environment, all_questions
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.policy import load_answerer, load_environment, load_mesh, load_policy, load_tokenizer
from finemem_jax.reporting.progress import Progress, print_table
from finemem_jax.reporting.records import write_atomically, write_json_lines
from finemem_jax.types import Answerer, Episode, Rollout, Sampling

_UNLIMITED = 2**30
WRITING_STEP = 2**31  # stands for the training step in the sampling keys of an evaluation


@dataclass(frozen=True, slots=True)
class Evaluation:
    metrics: dict[str, float]  # see `evaluation_metrics`
    rollouts: list[Rollout]


def evaluate(cfg: Config, workdir: Path, *, policy: bool = True) -> dict[str, Evaluation]:
    """Scores the baselines and, unless `policy` is False, the policy of `cfg.model` at every temperature.

    Writes WORKDIR/evaluation.json (the table) and WORKDIR/questions-NAME.jsonl (every question)."""
    episodes = resolve("finemem_jax.benchmarks", cfg.data.name).load(cfg.data, "eval", cfg.seed)
    episodes = [episodes[i] for i in range(min(cfg.eval.episodes or len(episodes), len(episodes)))]
    if not episodes:
        raise UserError(f"no held-out episodes in {cfg.data.eval_path or cfg.data.path or cfg.data.name}")
    for line in contamination(episode.source for episode in episodes):
        print(line, file=sys.stderr)
    if cfg.eval.metrics == "reference":
        episodes = [with_reference_metrics(episode) for episode in episodes]
    answerer = load_answerer(cfg, workdir)
    tokenizer = load_tokenizer(cfg)
    env = load_environment(cfg, tokenizer)
    found = evaluate_baselines(env, answerer, episodes, cfg)
    if policy:
        loaded = load_policy(cfg, load_mesh(cfg))
        with Progress(len(cfg.eval.temperatures), "evaluate"):
            found |= evaluate_all(Engine(loaded.model, loaded.params, cfg.engine), env, answerer, episodes, cfg)
    table = {name: evaluation.metrics for name, evaluation in found.items()}
    for name, evaluation in found.items():
        records = question_records(evaluation.rollouts)
        write_json_lines(workdir / f"questions-{name.replace(' ', '_')}.jsonl", records)
    write_atomically(workdir / "evaluation.json", json.dumps(table, indent=1))
    print_comparison(f"{cfg.data.name}: {len(episodes)} held-out episodes", table)
    return found


def evaluate_all(
    engine: Engine, env: Environment, answerer: Answerer, episodes: Sequence[Episode], cfg: Config
) -> dict[str, Evaluation]:
    """The engine's policy at every temperature of `cfg.eval.temperatures`, by name ("T=1", "greedy")."""
    found = {}
    for temperature in cfg.eval.temperatures:
        rollouts = evaluate_policy(engine, env, answerer, episodes, cfg, temperature)
        name = f"T={temperature:g}" if temperature else "greedy"
        found[name] = Evaluation(evaluation_metrics(rollouts), rollouts)
    return found


def evaluate_baselines(
    env: Environment, answerer: Answerer, episodes: Sequence[Episode], cfg: Config
) -> dict[str, Evaluation]:
    found = {}
    for name in cfg.eval.baselines:
        rollouts = evaluate_baseline(name, env, answerer, episodes, cfg)
        found[name] = Evaluation(evaluation_metrics(rollouts), rollouts)
    return found


def headline(when: str, evaluations: Mapping[str, Evaluation]) -> str:
    scores = (f"{name} {evaluation.metrics['accuracy']:.3f}" for name, evaluation in evaluations.items())
    return f"{when}: held-out accuracy " + ", ".join(scores)


def print_comparison(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    """One row per policy or baseline."""
    kinds = sorted({key for row in table.values() for key in row if key.startswith("accuracy/")})
    columns = ["accuracy", *kinds, "memory_tokens", "memory_items", "valid_operations", "exact_copy"]
    names = ["", *(column.removeprefix("accuracy/").replace("_", " ") for column in columns)]
    rows = [
        [name, *(f"{row[c]:.1f}" if c.startswith("memory") else f"{row.get(c, 0.0):.3f}" for c in columns)]
        for name, row in table.items()
    ]
    print_table(title, names, rows)


def evaluate_policy(
    engine: Engine, env: Environment, answerer: Answerer, episodes: Sequence[Episode], cfg: Config, temperature: float
) -> list[Rollout]:
    """One rollout per episode, at `temperature` (0 = greedy), all final questions asked."""
    sampling = Sampling(
        temperature=temperature,
        max_tokens=cfg.prompt.max_completion_tokens,
        stop_tokens=stop_tokens(env.tokenizer),
    )
    jobs = [Job(episode, all_questions(episode)) for episode in episodes]
    return collect_rollouts(engine, env, answerer, jobs, sampling, seed=cfg.eval.seed, step=WRITING_STEP)


def evaluate_baseline(
    name: str, env: Environment, answerer: Answerer, episodes: Sequence[Episode], cfg: Config
) -> list[Rollout]:
    """The same for a scripted baseline. `store_all` alone is free of the write limits."""
    writers = {
        "no_memory": scripted.no_memory,
        "store_all": scripted.store_all,
        "expert": scripted.expert(cfg.sft.expert, cfg.memory.max_operations, cfg.eval.seed),
        "oracle": scripted.oracle(cfg.memory.max_operations),
    }
    if name not in writers:
        raise UserError(unknown(name, sorted(writers), "baseline in config.eval.baselines:"))
    if name == "store_all":
        unlimited = dataclasses.replace(
            cfg.memory,
            max_operations=_UNLIMITED,
            max_items=_UNLIMITED,
            max_tokens=_UNLIMITED,
            max_item_tokens=_UNLIMITED,
        )
        env = dataclasses.replace(env, memory=unlimited)
    jobs = [Job(episode, all_questions(episode)) for episode in episodes]
    return play_scripted(env, answerer, jobs, writers[name])


def evaluation_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Scores and sizes of a set of rollouts.

    accuracy             mean over sources of the mean over episodes of the mean score of the final questions
    accuracy/KIND        mean over the questions of one kind ("fact", "changed", "label", …)
    source/NAME          mean over the episodes of one source
    memory_tokens        length of the final memory; memory_items likewise
    valid_operations     share of the operations written that were well-formed and applied
    well_formed          share that were well-formed and named an item in view, whether or not memory took them
    exact_copy           share of the contents written that are, word for word, a line of their chunk
    operations/NAME      operations of each kind per step, counted if they applied
    completion_tokens    per step
    missing_answers      questions the answerer failed on; they are in no mean
    """
    by_source, by_kind = defaultdict(list), defaultdict(list)
    valid, formed, copies, lengths, applied = [], [], [], [], defaultdict(int)
    missing = 0
    for rollout in rollouts:
        final = [answer for answer in rollout.answers if answer.step is None]
        scores = [answer.score for answer in final if answer.score is not None]
        missing += len(final) - len(scores)
        if scores:
            by_source[rollout.episode.source].append(np.mean(scores))
        for answer in final:
            if answer.question.kind and answer.score is not None:
                by_kind[answer.question.kind].append(answer.score)
        for chunk, step in zip(rollout.episode.chunks, rollout.steps, strict=True):
            lengths.append(len(step.completion.tokens))
            lines = chunk.text.splitlines()
            for operation, outcome in zip(step.operations, step.outcomes, strict=True):
                valid.append(outcome.ok)
                formed.append(not outcome.status.startswith(("malformed", "unknown id")))
                if outcome.ok:
                    applied[operation.name] += 1
                if "content" in operation.arguments:
                    copies.append(operation.arguments["content"] in lines)
    sources = {name: _mean(values) for name, values in sorted(by_source.items())}
    return {
        "accuracy": _mean(list(sources.values())),
        **{f"accuracy/{kind}": _mean(values) for kind, values in sorted(by_kind.items())},
        **({f"source/{name}": value for name, value in sources.items()} if len(sources) > 1 else {}),
        "memory_tokens": _mean([rollout.steps[-1].memory_after.tokens() for rollout in rollouts]),
        "memory_items": _mean([len(rollout.steps[-1].memory_after.items) for rollout in rollouts]),
        "valid_operations": _mean(valid),
        "well_formed": _mean(formed),
        "exact_copy": _mean(copies),
        **{f"operations/{name}": count / max(len(lengths), 1) for name, count in sorted(applied.items())},
        "completion_tokens": _mean(lengths),
        "missing_answers": float(missing),
    }


def question_records(rollouts: Sequence[Rollout]) -> list[dict]:
    """One plain record per final question: what was retrieved, which step wrote it, what was answered."""
    return [
        {
            "episode": rollout.episode.id,
            "source": rollout.episode.source,
            "question": answer.question.text,
            "kind": answer.question.kind,
            "gold": list(answer.question.answers),
            "metric": answer.question.metric,
            "answer": answer.text,
            "score": answer.score,
            "retrieved": [
                {"id": item.id, "step": item.written_at, "text": item.text, "bm25": round(item.score, 6)}
                for item in answer.retrieved
            ],
        }
        for rollout in rollouts
        for answer in rollout.answers
        if answer.step is None
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
