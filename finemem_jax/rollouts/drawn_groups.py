"""The groups of a training step: which episodes are drawn, what they are asked, and how their samples are made."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.config import Config
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.environment import Environment, training_questions
from finemem_jax.env.episodes import cut_episode, stream_indices
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.env.turns import asks_chunk_questions
from finemem_jax.hosts import agreement
from finemem_jax.rollouts.collect import Job, collect_rollouts
from finemem_jax.rollouts.groups import own_groups
from finemem_jax.rollouts.shared_states import collect_local, collect_trunks
from finemem_jax.run.clock import Clock
from finemem_jax.types import Answerer, Episode, Rollout, Sampling


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
    numbers: range | None = None,
    chunks: int = 0,
) -> dict[int, list[Rollout]]:
    """This process's groups of a step, by number. The step's group g is of `train.group_size` rollouts of the episode
    at `position` + g of the stream, cut to `chunks` chunks (0 = whole).

    numbers: of the groups that are made now; None = the first `train.episodes`."""
    numbers = range(cfg.train.episodes) if numbers is None else numbers
    asks_chunks = asks_chunk_questions(cfg.rewards)
    mine = set(own_groups(cfg, step, agreement.process_index(), agreement.process_count(), numbers))
    jobs = []
    indices = episode_indices(len(episodes), cfg.seed, position + numbers.start, len(numbers))
    for group, index in zip(numbers, indices, strict=True):
        if group in mine:
            episode = cut_episode(episodes, index, chunks)
            seed = f"questions {cfg.seed} {step} {group} {episode.id}"
            asked = training_questions(episode, cfg.rewards, asks_chunks=asks_chunks, seed=seed)
            jobs += [Job(episode, asked, group, sample) for sample in range(cfg.train.group_size)]
    sampling = Sampling(
        temperature=cfg.train.temperature,
        max_tokens=cfg.prompt.max_completion_tokens,
        stop_tokens=stop_tokens(env.tokenizer),
    )
    groups: dict[int, list[Rollout]] = {group: [] for group in sorted(mine)}
    shares_states = cfg.advantage.credit == "state"
    collect = collect_trunks if shares_states and cfg.advantage.states == "trunk" else collect_rollouts
    answering = clock.phase("answer")
    for rollout in collect(engine, env, answerer, jobs, sampling, seed=cfg.seed, step=step, answering=answering):
        groups[rollout.group].append(rollout)
    if shares_states and cfg.advantage.states == "local":
        words = {"seed": cfg.seed, "step": step}
        answering = clock.phase("answer")
        for rollout in collect_local(
            engine, env, answerer, jobs, groups, sampling, cfg.advantage, **words, answering=answering
        ):
            groups[rollout.group].append(rollout)
    return groups


def episode_indices(available: int, seed: int, position: int, count: int) -> list[int]:
    """`count` episodes of the endless stream of training episodes, from `position` on."""
    return stream_indices(available, seed, range(position, position + count))
