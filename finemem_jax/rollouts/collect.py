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

from finemem_jax.baselines._scripted import Writer
from finemem_jax.config import Config, MethodConfig
from finemem_jax.console import Progress
from finemem_jax.decoding.engine import Engine
from finemem_jax.decoding.request import Request
from finemem_jax.env import operations
from finemem_jax.env.environment import Asked, Environment, Game, play, training_questions
from finemem_jax.env.episodes import stream_indices
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.env.turns import asks_chunk_questions
from finemem_jax.hosts import agreement
from finemem_jax.rollouts.groups import own_groups
from finemem_jax.run.clock import Clock
from finemem_jax.types import Answerer, Completion, Episode, Rollout, Sampling, Turn


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
        [_requests(game, job, sampling, words) for game, job in zip(games, jobs, strict=True)],
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


def _requests(
    game: Game, job: Job, sampling: Sampling, words: tuple[int, int]
) -> Generator[Request, Completion, Callable[[], Rollout]]:
    """A game as the engine drives it: each turn becomes a request with a key of its own."""
    episode = zlib.crc32(job.episode.id.encode())
    try:
        turn = next(game)
        while True:
            key = (*words, job.group, episode, job.sample, turn.index)
            place = f"group {job.group}, sample {job.sample}, training step {words[1]}"
            name = f"turn {turn.index} of episode {job.episode.id!r}, {place}"
            limited = dataclasses.replace(sampling, max_tokens=turn.max_tokens) if turn.max_tokens else sampling
            turn = game.send((yield Request(turn.prompt_tokens, limited, key, name)))
    except StopIteration as done:
        return done.value


def _drive(env: Environment, answerer: Answerer | None, job: Job, write: Writer) -> Callable[[], Rollout]:
    ask = (lambda requests: []) if answerer is None else answerer.submit
    env = dataclasses.replace(env, method=MethodConfig())  # a script writes over a stream, and answers nothing
    game = play(env, job.episode, job.asked, ask, group=job.group, sample=job.sample)
    try:
        turn = next(game)
        while True:
            turn = game.send(scripted_completion(env, job.episode, turn, write))
    except StopIteration as done:
        return done.value


# --------------------------------------------------------------------------------------------------------------
# The groups of a training step
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
