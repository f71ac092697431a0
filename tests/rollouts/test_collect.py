"""Rollouts with a real, tiny policy: what their sampling keys hold."""

from __future__ import annotations

import dataclasses

import pytest

from finemem_jax import main
from finemem_jax.config import GuardConfig, resolve
from finemem_jax.console import Progress
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.environment import all_questions
from finemem_jax.loading import load_answerer, load_environment, load_policy
from finemem_jax.rollouts import collect, drawn_groups
from finemem_jax.rollouts.collect import Job, collect_rollouts
from finemem_jax.run.clock import Clock
from finemem_jax.run.watchdog import Watchdog
from finemem_jax.types import Sampling

OVERRIDES = (
    "--config.mesh.data=1",
    "--config.engine.slots=8",
    "--config.data.diary.chunks=2",
    "--config.prompt.max_completion_tokens=8",
    "--config.train.episodes=4",
    "--config.train.group_size=2",
)
SAMPLING = Sampling(temperature=1.0, max_tokens=8)


@pytest.fixture(scope="module")
def cfg():
    return main.load_config("configs/quickstart.py", OVERRIDES)


@pytest.fixture(scope="module")
def parts(cfg, tmp_path_factory):
    policy = load_policy(cfg)
    engine = Engine(policy.model, policy.params, cfg.engine)
    answerer = load_answerer(cfg, tmp_path_factory.mktemp("answers"))
    episodes = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", cfg.seed)
    return engine, load_environment(cfg, policy.tokenizer), answerer, [episodes[0], episodes[1]]


def written(rollouts):
    return [tuple(step.completion.tokens for step in rollout.steps) for rollout in rollouts]


def test_the_same_episode_twice_in_a_step_makes_two_different_groups(parts):
    """And each group is the same whichever slots it has and whoever shares its batch."""
    engine, env, answerer, (episode, other) = parts
    asked = all_questions(episode)

    def play(jobs):
        return written(collect_rollouts(engine, env, answerer, jobs, SAMPLING, seed=3, step=5))

    jobs = [Job(episode, asked, group, sample) for group in (0, 1) for sample in (0, 1)]
    found = play(jobs)
    assert len(set(found)) == 4
    beside = [Job(other, all_questions(other), group, 0) for group in (2, 3)]
    assert play([*beside, *reversed(jobs)])[2:] == found[::-1]
    assert play([jobs[2]]) == [found[2]]


def test_a_step_that_has_an_episode_more_than_once_draws_for_each_of_its_groups(cfg, parts, tmp_path):
    """Four groups of two episodes: completions and the questions that are asked."""
    engine, env, answerer, episodes = parts
    rewards = dataclasses.replace(cfg.rewards, chunk_questions=1, question_share=0.2)

    watchdog = Watchdog(GuardConfig(action="off"), tmp_path, engine.describe)
    clock = Clock(watchdog, Progress(1, "rollouts", is_muted=True), 0)
    cfg = dataclasses.replace(cfg, rewards=rewards)
    groups = drawn_groups.collect_groups(engine, env, answerer, episodes, cfg, clock, step=0, position=0)
    drawn: dict[str, list] = {}
    for group in groups.values():
        asked = [answer.question.text for answer in group[0].answers]
        assert [answer.question.text for answer in group[1].answers] == asked  # of a group, all samples are asked alike
        drawn.setdefault(group[0].episode.id, []).append((written(group), asked))
    assert [len(found) for found in drawn.values()] == [2, 2]
    for (first, asked), (second, asked_too) in drawn.values():
        assert first != second and asked != asked_too


def test_every_key_has_as_many_words_as_the_shapes_that_are_compiled_ahead(parts, monkeypatch):
    engine, env, answerer, (episode, _) = parts
    keys = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda episodes, names: run([_noted(e, keys) for e in episodes], names))
    collect_rollouts(engine, env, answerer, [Job(episode, all_questions(episode), 7, 1)], SAMPLING, seed=3, step=5)
    assert {len(key) for key in keys} == {collect.KEY_WORDS}
    assert len(set(keys)) == len(episode.chunks) and keys[0][:3] == (3, 5, 7)


def _noted(episode, keys):
    request = next(episode)
    while True:
        keys.append(request.key)
        try:
            request = episode.send((yield request))
        except StopIteration as end:
            return end.value
