"""`finemem collect-traces`: the present policy's own best rollouts as traces for `sft` (self-imitation).

For every training episode the policy writes a group of rollouts, as in training, and the terms of `config.rewards`
score them; what is kept of a group is said in selection.py. Everything is saved block by block, so a collection that
was killed goes on where it stopped and ends with the same file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finemem_jax import __version__, config, exits
from finemem_jax.chat.policy import PolicyServer
from finemem_jax.config import Config, UserError
from finemem_jax.console import Progress, print_table
from finemem_jax.decoding.engine import Engine
from finemem_jax.decoding.request import EpisodesFailed
from finemem_jax.env.environment import Asked, Environment, play, training_questions
from finemem_jax.env.episodes import stream_indices
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.env.turns import asks_chunk_questions
from finemem_jax.evaluate import in_shares
from finemem_jax.evaluation.log import EvaluationLog
from finemem_jax.exits import RunEnded
from finemem_jax.files import write_json_lines
from finemem_jax.hosts import agreement
from finemem_jax.imitation.selection import Selection, group_record
from finemem_jax.loading import (
    Given,
    OpenPolicies,
    check_answerer,
    fit_prompts,
    load_answerer,
    load_environment,
    load_given,
    load_judge,
    load_rewarded,
)
from finemem_jax.rollouts.by_chat import play_by_chat
from finemem_jax.rollouts.collect import Job, collect_rollouts
from finemem_jax.run import workdir as workdirs
from finemem_jax.run.preemption import Preempted, Preemption
from finemem_jax.types import Answerer, AnswererDown, Episode, Rollout, Sampling

COMMAND = "collect-traces"
TRACES = "traces.jsonl"
LOG = "collected.jsonl"
COLLECTING_STEP = 2**31 + 1  # stands for the training step in the sampling keys


def collect_traces(cfg: Config, workdir: Path, selection: Selection, *, given: str = "") -> Path:
    """Writes WORKDIR/traces.jsonl, from what is saved in WORKDIR/collected.jsonl meanwhile; the file's path.

    given: the policy, as `evaluate` takes it; "" = config.model."""
    for name, least in (("episodes", 0), ("samples", 2), ("keep", 1)):
        if getattr(selection, name) < least:
            raise UserError(f"--{name}={getattr(selection, name)}: must be at least {least}")
    lock = workdirs.locked(workdir) if agreement.is_lead() else contextlib.nullcontext()
    with lock, Preemption(cfg.guards.grace) as preemption:
        try:
            with preemption.interruptible():
                return _collect(cfg, workdir, selection, given)
        except (Preempted, AnswererDown, EpisodesFailed) as end:
            why, code = (preemption.reason, preemption.code) if isinstance(end, Preempted) else (end, exits.STOPPED)
            raise RunEnded(f"{why}; what was collected is saved, the same command goes on from there", code) from None


def _collect(cfg: Config, workdir: Path, selection: Selection, given: str) -> Path:
    workdirs.claim_kind(workdir, COMMAND)
    if agreement.is_lead():
        workdirs.mark(workdir, COMMAND)
    check_answerer(cfg)
    loaded = load_given(cfg, given, workdir)
    cfg = loaded.cfg
    available = load_rewarded(cfg)
    env = load_environment(cfg, loaded.tokenizer, load_judge(cfg, workdir))
    available = fit_prompts(available, env, cfg, sorted(_drawn(len(available), cfg, selection)))
    episodes = [available[i] for i in _drawn(len(available), cfg, selection)]
    count = len(episodes)
    answerer = load_answerer(cfg, workdir)
    blocks = [range(start, min(start + cfg.eval.block, count)) for start in range(0, count, cfg.eval.block)]
    log, opened = None, OpenPolicies()
    if agreement.is_lead():  # it alone reads and writes the file; each process plays its share of a block
        fingerprint = _fingerprint(cfg, loaded, selection, episodes)
        _check_same(workdir / LOG, fingerprint)
        log = EvaluationLog(workdir / LOG, fingerprint, [len(block) for block in blocks])

    def collected(indices: Sequence[int]) -> list[dict]:
        groups = _rollouts(loaded, env, answerer, opened, [(i, episodes[i]) for i in indices], selection.samples)
        return [group_record(group, env, cfg, selection) for group in groups]

    with Progress(count, COMMAND, is_muted=not agreement.is_lead()) as progress:
        for number in agreement.from_lead(log.missing() if log else []):
            records = in_shares(blocks[number], collected)
            if log:
                log.write(number, records)
            progress.update(blocks[number].stop)
        progress.update(count)
    records = agreement.from_lead(log.records() if log else [])
    traces = [trace for found in records for trace in found["traces"]]
    path = workdir / TRACES
    if agreement.is_lead():
        write_json_lines(path, traces)
        _print_summary(records, traces, path)
    if not traces:
        raise RunEnded(
            f"nothing to imitate: of {count} groups of {selection.samples} none had a rollout above its mean whose "
            "operations applied; raise --samples or --episodes, or warm the policy up otherwise",
            exits.STOPPED,
        )
    return path


def _drawn(available: int, cfg: Config, selection: Selection) -> list[int]:
    """Which of the training episodes are played: the first that training would draw."""
    return stream_indices(available, cfg.seed, range(min(selection.episodes or available, available)))


def _check_same(path: Path, fingerprint: str) -> None:
    """Raises UserError when other rollouts lie there than this command would make."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
    except FileNotFoundError:
        return
    if fingerprint not in first:
        raise UserError(f"{path.parent} holds traces of another policy, config or selection: choose another --workdir")


def _fingerprint(cfg: Config, given: Given, selection: Selection, episodes: Sequence[Episode]) -> str:
    """Of everything the traces are a function of."""
    tree = config.to_dict(cfg)
    names = ("model", "mesh", "engine", "data", "memory", "prompt", "retrieval", "rewards", "advantage", "seed")
    kept = {name: tree[name] for name in names} | {"temperature": tree["train"]["temperature"]}
    for name in ("answerer", "judge"):
        kept[name] = {key: tree[name][key] for key in ("name", "model", "prompt", "temperature", "max_tokens", "extra")}
    kept["block"] = cfg.eval.block
    parts = [__version__, given.identity, dataclasses.asdict(selection), kept, tree["judge"]["sources"]]
    digest = hashlib.sha256(json.dumps(parts).encode())
    for episode in episodes:
        digest.update(repr(episode).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------------
# The rollouts
# --------------------------------------------------------------------------------------------------------------


def _rollouts(
    given: Given,
    env: Environment,
    answerer: Answerer,
    opened: OpenPolicies,
    episodes: Sequence[tuple[int, Episode]],
    samples: int,
) -> list[list[Rollout]]:
    """A group of rollouts for each of the numbered episodes, in the engine or behind the policy's server."""
    cfg = given.cfg
    jobs = [
        Job(episode, _asked(episode, cfg), group, sample) for group, episode in episodes for sample in range(samples)
    ]
    if given.url:
        rollouts = _by_server(given, env, answerer, opened, jobs, samples)
    else:
        engine = opened.open(given, cfg.train.temperature)
        assert isinstance(engine, Engine)
        sampling = Sampling(
            temperature=cfg.train.temperature,
            max_tokens=cfg.prompt.max_completion_tokens,
            stop_tokens=stop_tokens(env.tokenizer),
        )
        rollouts = collect_rollouts(engine, env, answerer, jobs, sampling, seed=cfg.seed, step=COLLECTING_STEP)
    return [rollouts[start : start + samples] for start in range(0, len(rollouts), samples)]


def _asked(episode: Episode, cfg: Config) -> Asked:
    """All final questions: a selection shall not hang on which were drawn. At most K of each chunk."""
    rewards = dataclasses.replace(cfg.rewards, question_share=1.0)
    seed = f"questions {cfg.seed} {COMMAND} {episode.id}"
    return training_questions(episode, rewards, asks_chunks=asks_chunk_questions(rewards), seed=seed)


def _by_server(
    given: Given, env: Environment, answerer: Answerer, opened: OpenPolicies, jobs: Sequence[Job], samples: int
) -> list[Rollout]:
    """Sample after sample, each with a seed of its own: asked the same twice, a server is not asked again."""
    finishes = {}
    for sample in range(samples):
        chat = opened.open(given, given.cfg.train.temperature, seed=(given.cfg.seed + 1_000_003 * sample) % 2**31)
        assert isinstance(chat, PolicyServer)
        own = [number for number, job in enumerate(jobs) if job.sample == sample]
        games = [
            (job.episode, job.asked, play(env, job.episode, job.asked, answerer.submit, group=job.group, sample=sample))
            for job in (jobs[number] for number in own)
        ]
        finishes |= dict(zip(own, play_by_chat(chat, env, games), strict=True))
    env.settle(answerer)
    return [finishes[number]() for number in range(len(jobs))]


# --------------------------------------------------------------------------------------------------------------
# What is printed
# --------------------------------------------------------------------------------------------------------------


def _print_summary(records: Sequence[dict], traces: Sequence[dict], path: Path) -> None:
    rewards = [[reward for reward in found["rewards"] if reward is not None] for found in records]
    chosen = [found["rewards"][sample] for found in records for sample in found["kept"]]
    operations = sum(found["operations"] for found in records)
    rows = {
        "groups": f"{len(records)}",
        "groups that an answer is missing of": f"{sum(None in found['rewards'] for found in records)}",
        "reward, all rollouts": _mean([reward for group in rewards for reward in group]),
        "reward, the best of each group": _mean([max(group) for group in rewards if group]),
        "reward, rollouts kept": _mean(chosen),
        "operations that applied": _mean([sum(found["valid"] for found in records) / operations] if operations else []),
        "rollouts kept": f"{len(chosen)}",
        "turns kept": f"{len(traces)} of {sum(found['turns'] for found in records)}",
    }
    print_table(f"traces: {path}", ["", ""], [list(row) for row in rows.items()])


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if len(values) else "-"
