"""What the scripted writers earn from an answerer that fails: never does it pay to write nothing."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from finemem_jax.baselines import _scripted as scripted
from finemem_jax.config import (
    AdvantageConfig,
    AnswererConfig,
    Config,
    DataConfig,
    LossConfig,
    MemoryConfig,
    PromptConfig,
    RetrievalConfig,
    RewardsConfig,
    resolve,
)
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.environment import Environment, all_questions
from finemem_jax.env.turns import advantages, answered_alike, step_keys, tabulate, totals
from finemem_jax.rollouts.collect import Job, play_scripted
from finemem_jax.rollouts.metrics import reward_metrics
from finemem_jax.rollouts.packing import TrainSequence, pack_rollouts
from tests import fakes

EPISODES = 6
BUDGET = 6


@pytest.fixture(scope="module")
def env():
    tokenizer = tokenizers.build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences())
    memory, prompt = MemoryConfig(max_operations=BUDGET), PromptConfig(name="compact")
    return Environment(tokenizer, tokenizers.token_counter(tokenizer), memory, prompt, RetrievalConfig())


def writes_nothing(episode, turn):
    return [scripted.SKIP]


def writes_half(episode, turn):
    """Every other line that a question needs."""
    questions = [q for chunk in episode.chunks for q in chunk.questions] + list(episode.questions)
    useful = [line for line in scripted.chunk_lines(episode, turn) if scripted.is_useful(line, questions)]
    return [scripted.insert(line) for line in useful[:BUDGET:2]] or [scripted.SKIP]


WRITERS = {
    "oracle": fakes.writer("oracle", Config(memory=MemoryConfig(max_operations=BUDGET))),
    "half": writes_half,
    "nothing": writes_nothing,
}


def play_groups(env, answerer):
    """One group per episode, whose samples are the writers' rollouts."""
    episodes = resolve("finemem_jax.benchmarks", "diary").load(DataConfig(), "train", 0)
    groups = []
    for g in range(EPISODES):
        asked = all_questions(episodes[g], chunk_questions=True)
        group = []
        for s, write in enumerate(WRITERS.values()):
            group += play_scripted(env, answerer, [Job(episodes[g], asked, g, s)], write)
        groups.append(group)
    return groups


@pytest.fixture(scope="module")
def groups(env):
    return play_groups(env, resolve("finemem_jax.answerers", "extractive").create(AnswererConfig()))


def advantages_of(env, groups):
    """[groups, samples, turns]"""
    turns = tabulate(groups, RewardsConfig(), env.count_tokens)
    return np.array(turns.split(advantages(turns, RewardsConfig().weights, AdvantageConfig())))


def rewards_of(env, groups):
    """The table, and [turns]: the rewards."""
    turns = tabulate(groups, RewardsConfig(), env.count_tokens)
    return turns, totals(turns, RewardsConfig().weights)


def losing(groups, share, seed):
    """The same rollouts, where each answer is lost with a probability."""
    rng = random.Random(seed)

    def lossy(rollout):
        lost = [dataclasses.replace(a, score=None) if rng.random() < share else a for a in rollout.answers]
        return dataclasses.replace(rollout, answers=tuple(lost))

    return [[lossy(rollout) for rollout in group] for group in groups]


def test_when_every_answer_is_missing_nobody_has_a_gradient_and_nothing_is_packed(env):
    failing = fakes.LossyAnswerer(resolve("finemem_jax.answerers", "extractive").create(AnswererConfig()))
    groups = play_groups(env, failing)
    turns, _ = rewards_of(env, groups)
    found = advantages_of(env, groups)
    assert np.isnan(found).all()
    line = reward_metrics(turns, RewardsConfig().weights, found.ravel(), step_keys(turns))
    assert line["missing_rewards"] == 1.0 and "reward/total" not in line
    made = [TrainSequence(step.prompt_tokens, step.completion.tokens, step.completion.logprobs)
            for group in groups for rollout in group for step in rollout.steps]  # fmt: skip
    packed = pack_rollouts(made, found.ravel(), LossConfig(), row_tokens=2048, microbatch_rows=1)
    assert packed.used_rows == 0 and not packed.token_weights.any() and not packed.advantages.any()


def test_with_all_answers_the_oracle_leads_and_writing_nothing_is_last(env, groups):
    oracle, half, nothing = np.nanmean(advantages_of(env, groups), axis=(0, 2))
    assert oracle > half + 0.1 and half > nothing + 0.1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_a_partial_loss_leaves_the_ranking_of_the_writers_in_expectation(env, groups, share):
    found = []
    for draw in range(20):
        lossy = losing(groups, share, f"{share} {draw}")
        of_draw = advantages_of(env, lossy)
        if not np.isnan(of_draw).all():
            found.append(np.nanmean(of_draw, axis=(0, 2)))
    oracle, half, nothing = np.mean(found, axis=0)
    assert oracle > half + 0.05 and half > nothing + 0.05


def test_one_missing_answer_of_one_sample_drops_that_question_for_the_group_and_nothing_else(env, groups):
    number = next(i for i, a in enumerate(groups[0][1].answers) if a.chunk is None)
    broken = groups[0][1].answers
    broken = (*broken[:number], dataclasses.replace(broken[number], score=None), *broken[number + 1 :])
    group = [groups[0][0], dataclasses.replace(groups[0][1], answers=broken), groups[0][2]]
    turns, rewards = rewards_of(env, [group])
    assert np.isfinite(turns.terms["evidence"]).all()
    without = [
        dataclasses.replace(r, answers=tuple(a for i, a in enumerate(r.answers) if i != number)) for r in groups[0]
    ]
    np.testing.assert_array_equal(rewards, rewards_of(env, [without])[1])
    assert not np.array_equal(rewards, rewards_of(env, groups[:1])[1])


def test_a_missing_answer_without_some_items_drops_the_question_like_a_missing_answer(env, groups):
    """What leave-one-out and Shapley credit would be computed from is not there: for nobody of the group."""
    number = next(i for i, a in enumerate(groups[0][1].answers) if a.chunk is None)

    def broken(**changes):
        answers = list(groups[0][1].answers)
        answers[number] = dataclasses.replace(answers[number], **changes)
        return [groups[0][0], dataclasses.replace(groups[0][1], answers=tuple(answers)), groups[0][2]]

    found = rewards_of(env, [broken(subsets=((0, 0.0), (1, None)))])[1]
    np.testing.assert_array_equal(found, rewards_of(env, [broken(score=None)])[1])
    assert not np.array_equal(found, rewards_of(env, groups[:1])[1])


def test_a_question_is_told_by_its_step_and_place_also_where_rollouts_end_early(groups):
    whole, short = groups[0][0], groups[0][1]
    ended = dataclasses.replace(
        short,
        steps=short.steps[:-1],
        answers=tuple(
            dataclasses.replace(a, score=None) if a.chunk is None else a
            for a in short.answers
            if a.chunk is None or a.chunk < len(short.steps) - 1
        ),
    )
    first, _ = answered_alike([whole, ended])
    assert [a.score is None for a in first.answers] == [a.chunk is None for a in first.answers]
