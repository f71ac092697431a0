"""Episodes as coroutines over the engine: the policy's turns become requests, the answers come in behind them.

A completion is a function of its prompt and its key, (seed, step, episode, sample, t), so a rollout is the same
whatever shares its batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from finemem_jax.decoding.engine import Engine, Request
from finemem_jax.env.environment import Asked, Environment, Turn, play
from finemem_jax.env.scripted import Writer
from finemem_jax.types import Answerer, Completion, Episode, Rollout, Sampling


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
) -> list[Rollout]:
    """Plays every job with the engine's policy; rollouts in the order of the jobs.

    `seed` and `step` (the training step) are part of every sampling key, so two steps never share noise. One
    background thread asks the answerer while the device decodes.
    """
    with ThreadPoolExecutor(max_workers=1) as background:

        def ask(requests: list) -> Future[list[str | None]]:
            return background.submit(answerer.answer, requests)

        return engine.run([_requests(env, job, ask, sampling, (seed, step)) for job in jobs])


def play_scripted(env: Environment, answerer: Answerer | None, jobs: Iterable[Job], write: Writer) -> list[Rollout]:
    """The same for a scripted writer: no device, no randomness but the writer's own. Jobs without questions need
    no answerer."""
    return [_drive(env, answerer, job, write) for job in jobs]


def scripted_completion(env: Environment, episode: Episode, turn: Turn, write: Writer) -> Completion:
    """A writer's text as the completion a policy would have sampled."""
    tokens = (*env.tokenizer.encode(write(episode, turn), add_special_tokens=False), env.tokenizer.eos_token_id)
    return Completion(tokens, (0.0,) * len(tokens), "stop")


def _requests(
    env: Environment, job: Job, ask, sampling: Sampling, words: tuple[int, int]
) -> Generator[Request, Completion, Rollout]:
    """`play` as the engine drives it: each turn becomes a request with a key of its own."""
    game = play(env, job.episode, job.asked, ask, group=job.group, sample=job.sample)
    episode = zlib.crc32(job.episode.id.encode())
    try:
        turn = next(game)
        while True:
            key = (*words, episode, job.sample, turn.step)
            turn = game.send((yield Request(turn.prompt_tokens, sampling, key)))
    except StopIteration as done:
        return done.value


def _drive(env: Environment, answerer: Answerer | None, job: Job, write: Writer) -> Rollout:
    def ask(requests: list) -> Future[list[str | None]]:
        future: Future[list[str | None]] = Future()
        future.set_result(answerer.answer(requests))
        return future

    game = play(env, job.episode, job.asked, ask, group=job.group, sample=job.sample)
    try:
        turn = next(game)
        while True:
            turn = game.send(scripted_completion(env, job.episode, turn, write))
    except StopIteration as done:
        return done.value
