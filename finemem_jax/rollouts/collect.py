"""Episodes as coroutines over the engine: the policy's turns become requests, the answers come in behind them.

A completion is a function of its prompt and its key, (seed, step, group, episode, sample, turn), so a rollout is the
same whatever shares its batch. The group is in the key because a step may have the same episode twice: a small set goes
through several epochs in one step, and each of its groups explores on its own.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from finemem_jax.baselines._scripted import Writer
from finemem_jax.config import MethodConfig
from finemem_jax.console import Progress
from finemem_jax.decoding.engine import Engine
from finemem_jax.decoding.request import Request, Update
from finemem_jax.env import operations
from finemem_jax.env.environment import Asked, Environment, play
from finemem_jax.env.turns import adapter_of
from finemem_jax.types import Answerer, Completion, Episode, Learn, Rollout, Sampling, Turn

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Job:
    """One rollout to be made: sample `sample` of group `group`."""

    episode: Episode
    asked: Asked
    group: int = 0
    sample: int = 0


def collect_rollouts(
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
    """Plays every job with the engine's policy; rollouts in the order of the jobs.

    `seed` and `step` (the training step) are part of every sampling key, so two steps never share noise. The answerer
    works in the background while the device decodes; its answers are waited for when the device is done, inside the
    context `answering`. Raises `EpisodesFailed` with the names of the episodes that raised, when all others are done.
    """
    games = [play(env, job.episode, job.asked, answerer.submit, group=job.group, sample=job.sample) for job in jobs]
    words = (seed, step)
    finishes = engine.run(
        [requests(game, job, sampling, words, engine.roles) for game, job in zip(games, jobs, strict=True)],
        [f"episode {job.episode.id!r} (group {job.group}, sample {job.sample})" for job in jobs],
    )
    with answering or nullcontext():
        env.settle(answerer)
        return [finish() for finish in finishes]


KEY_WORDS = 6  # of every sampling key: seed, step, group, episode, sample, turn


def warm_up(engine: Engine) -> int:
    """Compiles every shape that training can need, with a progress bar; returns how many there are."""
    shapes = engine.shapes(KEY_WORDS)
    with Progress(len(shapes), "compile the engine") as progress:
        for done, shape in enumerate(shapes, start=1):
            engine.compile(shape)
            progress.update(done)
        progress.say(f"engine: {len(shapes)} shapes compiled")
    engine.reset_stats()
    return len(shapes)


def play_scripted(env: Environment, answerer: Answerer | None, jobs: Iterable[Job], write: Writer) -> list[Rollout]:
    """The same for a scripted writer: no device, no randomness but the writer's own. Jobs without questions need
    no answerer."""
    finishes = [_drive(env, answerer, job, write) for job in jobs]
    if answerer is not None:
        env.settle(answerer)
    return [finish() for finish in finishes]


def scripted_completion(env: Environment, episode: Episode, turn: Turn, write: Writer) -> Completion:
    """What a writer writes as the completion a policy would have sampled."""
    text = operations.emit(write(episode, turn), env.prompt.codec, env.specs) + "\n"
    tokens = (*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id)
    return Completion(tokens, (0.0,) * len(tokens), "stop")


def requests(
    game: Generator[Turn | Learn, Any, _T],
    job: Job,
    sampling: Sampling,
    words: tuple[int, int],
    roles: Sequence[str] = (),
) -> Generator[Request | Update, Any, _T]:
    """A game as the engine drives it: each turn becomes a request with a key of its own. roles: those that have
    adapters of their own."""
    episode = zlib.crc32(job.episode.id.encode())
    try:
        turn = next(game)
        while True:
            place = f"group {job.group}, sample {job.sample}, training step {words[1]}"
            if isinstance(turn, Learn):
                turn = game.send((yield Update(turn.lessons, turn.fast, f"episode {job.episode.id!r}, {place}")))
                continue
            key = (*words, job.group, episode, job.sample, turn.index)
            name = f"turn {turn.index} of episode {job.episode.id!r}, {place}"
            limited = dataclasses.replace(sampling, max_tokens=turn.max_tokens) if turn.max_tokens else sampling
            ends = turn.stop.length if turn.stop else None
            adapter = adapter_of(turn.role, roles)
            turn = game.send((yield Request(turn.prompt_tokens, limited, key, name, ends, turn.fast, adapter)))
    except StopIteration as done:
        return done.value


def _drive(env: Environment, answerer: Answerer | None, job: Job, write: Writer) -> Callable[[], Rollout]:
    ask = (lambda requests: []) if answerer is None else answerer.submit
    env = dataclasses.replace(env, method=MethodConfig())  # a script writes over a stream, and answers nothing
    game = play(env, job.episode, job.asked, ask, group=job.group, sample=job.sample)
    try:
        turn = next(game)
        while isinstance(turn, Turn):
            turn = game.send(scripted_completion(env, job.episode, turn, write))
        raise RuntimeError("a script has no fast weights to write")
    except StopIteration as done:
        return done.value


# --------------------------------------------------------------------------------------------------------------
# The groups of a training step
# --------------------------------------------------------------------------------------------------------------
