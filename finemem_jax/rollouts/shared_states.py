"""Turns that are written from one memory by several samples, for `credit/state.py`.

A trunk is a group whose samples all write from one memory at every step; sample 0 is what its memory became: a rollout
like any other, with the final questions. The samples beside it hold the turns that were not drawn (`branches`). A local
group is a turn of an ordinary rollout that is written again from the memory it found.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from finemem_jax.config import AdvantageConfig, Config, UserError, resolve
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.environment import METHODS, Environment, ask_questions, finisher, probe
from finemem_jax.env.judging import judge_writes
from finemem_jax.rollouts.collect import Job, requests
from finemem_jax.types import Answer, Answerer, Judgement, Memory, Probe, Rollout, Sampling, Step


def check_states(cfg: Config) -> None:
    """Raises UserError where a method's turns cannot be written from any memory."""
    if cfg.advantage.credit != "state":
        return
    if not hasattr(resolve(METHODS, cfg.method.name), "write_turn") or cfg.method.answers == "policy":
        raise UserError(
            f"config.advantage.credit=state compares writing turns from one memory, which config.method.name="
            f"{cfg.method.name} with config.method.answers={cfg.method.answers} does not give: use stream and answerer"
        )


@dataclass(slots=True)
class _Branch:
    """A sample in the making: its turns, and what waits for the answers about them."""

    steps: list[Step] = field(default_factory=list)
    answers: list[Callable[[], list[Answer]]] = field(default_factory=list)
    probes: list[Callable[[], list[Probe]]] = field(default_factory=list)
    judgements: list[Callable[[], list[Judgement]]] = field(default_factory=list)

    def finish(self, job: Job, sample: int, *, branches: bool) -> Rollout:
        rollout = finisher(job.episode, self.steps, self.answers, job.group, sample, self.probes, self.judgements)()
        return dataclasses.replace(rollout, branches=branches)


def collect_trunks(
    engine: Engine,
    env: Environment,
    answerer: Answerer,
    jobs: Sequence[Job],
    sampling: Sampling,
    *,
    seed: int,
    step: int,
    answering: AbstractContextManager | None = None,
) -> list[Rollout]:
    """A trunk of every group: as many rollouts as jobs, in the order of groups; of each the first is the trunk.

    Who goes on is drawn by (seed, step, group, turn). Every key of sampling is what it is in an ordinary rollout.
    """
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job)
    memories: dict[int, Memory] = {job.group: env.first_memory(job.episode) for job in jobs}
    grown = {group: [_Branch() for _ in of_group] for group, of_group in groups.items()}
    for index in range(max((len(job.episode.chunks) for job in jobs), default=0)):
        writing = [job for job in jobs if index < len(job.episode.chunks)]
        written = _write(engine, env, [(job, memories[job.group], index) for job in writing], sampling, (seed, step))
        steps: dict[int, list[Step]] = {}
        for job, made in zip(writing, written, strict=True):
            steps.setdefault(job.group, []).append(dataclasses.replace(made, state=f"trunk {index}"))
        for group, turns in steps.items():
            drawn = random.Random(f"trunk {seed} {step} {group} {index}").randrange(len(turns))
            turns.insert(0, turns.pop(drawn))
            before = _before(env, groups[group][0], memories[group], index, answerer)
            for branch, own in zip(grown[group], turns, strict=True):
                _add(branch, env, groups[group][0], own, before, answerer)
            memories[group] = turns[0].memory_after
    for group, branches in grown.items():
        job = groups[group][0]
        ask = answerer.submit
        final = ask_questions(env, job.episode, memories[group], job.asked.final, ask, None, job.asked.probing)
        branches[0].answers.append(final)
    with answering or nullcontext():
        env.settle(answerer)
        return [
            branch.finish(groups[group][0], sample, branches=sample > 0)
            for group, branches in grown.items()
            for sample, branch in enumerate(branches)
        ]


def collect_local(
    engine: Engine,
    env: Environment,
    answerer: Answerer,
    jobs: Sequence[Job],
    groups: Mapping[int, Sequence[Rollout]],
    sampling: Sampling,
    cfg: AdvantageConfig,
    *,
    seed: int,
    step: int,
    answering: AbstractContextManager | None = None,
) -> list[Rollout]:
    """Completions more from memories of the groups' rollouts: `local_samples` at each chosen turn, each a rollout of
    that turn alone. Which turns, and whose memory, is drawn by (seed, step, group)."""
    first = {job.group: job for job in reversed(jobs)}
    tasks, names = [], []
    for group, rollouts in groups.items():
        rng, sample = random.Random(f"local {seed} {step} {group}"), len(rollouts)
        start = env.first_memory(first[group].episode)
        for index in range(len(first[group].episode.chunks)):
            if rng.random() >= cfg.local_share:
                continue
            origin = rng.randrange(len(rollouts))
            memory = rollouts[origin].steps[index - 1].memory_after if index else start
            for _ in range(cfg.local_samples):
                tasks.append((dataclasses.replace(first[group], sample=sample), memory, index))
                names.append(f"local {origin} {index}")
                sample += 1
    written = _write(engine, env, tasks, sampling, (seed, step))
    grown, before = [], {}
    for (job, memory, index), made, name in zip(tasks, written, names, strict=True):
        if (job.group, name) not in before:
            before[job.group, name] = _before(env, job, memory, index, answerer)
        grown.append(_Branch())
        _add(grown[-1], env, job, dataclasses.replace(made, state=name), before[job.group, name], answerer)
    with answering or nullcontext():
        env.settle(answerer)
        return [
            branch.finish(task[0], task[0].sample, branches=True) for branch, task in zip(grown, tasks, strict=True)
        ]


_Collect = Callable[[], list[Probe]]


def _write(
    engine: Engine,
    env: Environment,
    tasks: Sequence[tuple[Job, Memory, int]],
    sampling: Sampling,
    words: tuple[int, int],
) -> list[Step]:
    """A writing turn from each memory, all at once."""
    write_turn = resolve(METHODS, env.method.name).write_turn
    games = [
        write_turn(env, job.episode, job.episode.chunks[index], memory, index, job.asked)
        for job, memory, index in tasks
    ]
    return engine.run(
        [requests(game, job, sampling, words, engine.roles) for game, (job, _, _) in zip(games, tasks, strict=True)],
        [f"episode {job.episode.id!r} (group {job.group}, sample {job.sample})" for job, _, _ in tasks],
    )


def _before(env: Environment, job: Job, memory: Memory, index: int, answerer: Answerer) -> list[_Collect]:
    """What is asked of the memory that several samples write from: once for all of them."""
    asked, chunk, found = job.asked, job.episode.chunks[index], []
    if asked.probing.before and index and asked.by_chunk[index]:
        questions = asked.by_chunk[index]
        found.append(probe(env, job.episode, memory, questions, answerer.submit, chunk.index, index, after=False))
    if asked.probing.along and index:
        found.append(probe(env, job.episode, memory, asked.final, answerer.submit, None, index, after=False))
    return [functools.cache(collect) for collect in found]


def _add(
    branch: _Branch, env: Environment, job: Job, made: Step, before: Sequence[_Collect], answerer: Answerer
) -> None:
    """The turn with what is asked about it."""
    asked, chunk = job.asked, job.episode.chunks[made.index]
    branch.steps.append(made)
    branch.probes += before
    if asked.probing.judged_by:
        branch.judgements.append(judge_writes(env, made, asked.probing.judged_by))
    if asked.by_chunk[made.index]:
        questions = asked.by_chunk[made.index]
        branch.answers.append(
            ask_questions(env, job.episode, made.memory_after, questions, answerer.submit, chunk.index)
        )
    if asked.probing.along:
        branch.probes.append(probe(env, job.episode, made.memory_after, asked.final, answerer.submit, None, made.index))
