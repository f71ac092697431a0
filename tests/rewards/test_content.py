"""What a turn wrote is judged while the episode goes on, and pays by the judge's word."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax import config
from finemem_jax.chat.judge import ModelJudge
from finemem_jax.env.environment import replay, training_questions
from finemem_jax.env.probing import check_probing
from finemem_jax.env.rehearsal import rehearse
from finemem_jax.memory import layered
from finemem_jax.types import MemoryItem, Operation
from tests import fakes

content = config.resolve("finemem_jax.rewards", "content")
EPISODE = fakes.episode(["one", "two", "three"])
REWARDS = config.RewardsConfig(weights={"content": 0.1})


def insert(kind, text):
    return Operation("new_memory_insert", {"memory_type": f"{kind}_memory", "content": text})


WRITTEN = [
    [insert("semantic", "Orlov is a dentist"), insert("episodic", "hm"), insert("semantic", "Orlov is a dentist")],
    [],
    [
        Operation("memory_delete", {"memory_type": "episodic_memory", "memory_id": "e1"}),
        insert("semantic", "tea is hot"),
    ],
]


def played(env, say, rewards=REWARDS, memory="layered"):
    chat = fakes.EchoChat(say)
    env = dataclasses.replace(env, memory=config.MemoryConfig(name=memory), judge=ModelJudge(chat))
    asked = training_questions(EPISODE, rewards, asks_chunks=False, seed="0")
    finish = replay(env, EPISODE, asked, lambda requests: [], lambda episode, turn: WRITTEN[turn.chunk])
    env.judge.settle()
    return finish(), chat.asked


def test_each_entry_that_stands_is_judged_by_what_its_part_of_memory_is_for(env):
    rollout, asked = played(env, lambda text: "no" if "hm" in text else "Yes.")
    assert [(j.turn, j.place, j.score) for j in rollout.judgements] == [(0, 0, 1.0), (0, 1, 0.0), (2, 1, 1.0)]
    assert ["an event or an action" in text for text in asked] == [False, True, False]
    found = content.turn_rewards(rollout, REWARDS, fakes.count_words)
    np.testing.assert_allclose(found, [1 / 3, 0, 1 / 2])  # a duplicate, nothing at all, a removal


def test_a_judge_that_fails_makes_the_turn_missing_and_no_other(env):
    rollout, _ = played(env, lambda text: "well" if "hm" in text else "yes")
    found = content.turn_rewards(rollout, REWARDS, fakes.count_words)
    np.testing.assert_array_equal(np.isnan(found), [True, False, False])


def test_nobody_is_asked_for_a_term_without_a_weight(env):
    rollout, asked = played(env, lambda text: "yes", config.RewardsConfig(weights={"format": 1.0, "content": 0.0}))
    assert rollout.judgements == () and asked == []


def test_a_text_that_a_later_call_of_its_turn_replaced_is_not_judged(env, monkeypatch):
    core = [Operation("memory_update", {"memory_type": "core_memory", "new_content": text}) for text in ("hm", "Maya")]
    monkeypatch.setitem(globals(), "WRITTEN", [core, [], []])
    rollout, asked = played(env, lambda text: "yes")
    assert len(asked) == 1 and "Answer: Maya" in asked[0]
    assert content.turn_rewards(rollout, REWARDS, fakes.count_words).tolist() == [0.5, 0, 0]


def test_what_a_turn_left_as_it_was_is_not_judged(env, monkeypatch):
    texts = ("Maya", "Maya.", "Leo")
    monkeypatch.setitem(globals(), "WRITTEN", [[Operation("memory_replace", {"content": text})] for text in texts])
    rollout, asked = played(env, lambda text: "yes", memory="overwrite")
    assert len(asked) == 2 and content.turn_rewards(rollout, REWARDS, fakes.count_words).tolist() == [1, 0, 1]


def test_without_a_judge_the_run_does_not_begin():
    with pytest.raises(
        config.UserError, match=r"config\.rewards\.weights\.content=0\.1 asks a judge: set config\.judge"
    ):
        check_probing(config.Config(rewards=REWARDS))
    check_probing(config.Config(rewards=REWARDS, judge=config.JudgeConfig(name="endpoint")))


def test_the_term_is_rehearsed_without_a_judge(env):
    env = dataclasses.replace(env, memory=config.MemoryConfig(name="layered"))
    rehearse(env, REWARDS, config.AdvantageConfig(credit="instance"))


def test_an_item_of_any_memory_can_be_judged():
    kinds = ("", "text", *layered.KINDS)
    requests = [content.judgement(MemoryItem("#1", "Orlov is a dentist", 0, kind)) for kind in kinds]
    assert len({request.answers for request in requests}) == 4 and all(r.text == "Orlov is a dentist" for r in requests)
