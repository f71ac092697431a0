"""The stream method: who answers, what an answering turn holds, and what it does not touch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.config import (
    AdvantageConfig,
    MemoryConfig,
    MethodConfig,
    RewardsConfig,
    UserError,
    ViewConfig,
    resolve,
)
from finemem_jax.env.chunk_lengths import prompt_tokens, with_fitting_chunks
from finemem_jax.env.environment import Asked, play
from finemem_jax.env.rehearsal import rehearse
from finemem_jax.env.turns import advantages, tabulate
from finemem_jax.types import ANSWER, WRITE, Chunk, Completion, Episode, Question

CHUNKS = ("Maya's dentist is Orlov", "Leo has a red sofa")
QUESTIONS = (Question("who is Maya's dentist?", ("Orlov",)), Question("what colour is Leo's sofa?", ("red",)))
EPISODE = Episode("e", "test", tuple(Chunk(text, i) for i, text in enumerate(CHUNKS)), QUESTIONS, "Be brief.")


def played(env, said, episode=EPISODE):
    """The rollout of a policy that says these texts, and its turns. Nobody else may be asked."""
    env = dataclasses.replace(env, method=MethodConfig(answers="policy", answer_tokens=7))

    def ask(requests):
        raise AssertionError("the answerer is asked although the policy answers")

    game = play(env, episode, Asked(((),) * len(episode.chunks), episode.questions), ask)
    turns = [next(game)]
    for text in said:
        tokens = (*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id)
        try:
            turns.append(game.send(Completion(tokens, (-0.5,) * len(tokens), "stop")))
        except StopIteration as end:
            return end.value(), turns
    raise AssertionError("the episode wants more turns")


def insert(text):
    return f'<tool_call>\n{{"name": "memory_insert", "arguments": {{"content": "{text}"}}}}\n</tool_call>'


SAID = (insert(CHUNKS[0]), insert(CHUNKS[1]), "Orlov", "blue")


def test_the_policy_answers_in_turns_of_its_own(env):
    rollout, turns = played(env, SAID)
    assert [(t.index, t.role, t.chunk, t.question, t.max_tokens) for t in turns] == [
        (0, WRITE, 0, None, 0),
        (1, WRITE, 1, None, 0),
        (2, ANSWER, None, 0, 7),
        (3, ANSWER, None, 1, 7),
    ]
    prompt = env.tokenizer.decode(turns[2].prompt_tokens)
    assert CHUNKS[0] in prompt and QUESTIONS[0].text in prompt and "Be brief." in prompt and "Orlov" not in SAID[3]
    assert [(a.text, a.score, a.turn) for a in rollout.answers] == [("Orlov", 1.0, 2), ("blue", 0.0, 3)]
    assert [step.role for step in rollout.steps] == [WRITE, WRITE, ANSWER, ANSWER]
    assert rollout.steps[2].operations == () and len(rollout.memory.items) == 2


def test_an_answering_turn_takes_no_evidence_from_the_writes(env):
    rollout, _ = played(env, SAID)
    writes_alone = dataclasses.replace(rollout, steps=rollout.of(WRITE))
    evidence, cfg = resolve("finemem_jax.rewards", "evidence"), RewardsConfig()
    earned = evidence.turn_rewards(rollout, cfg, env.count_tokens)
    np.testing.assert_array_equal(earned, evidence.turn_rewards(writes_alone, cfg, env.count_tokens))
    assert earned.sum() == pytest.approx(0.5) and earned[0] > earned[1]
    turns = tabulate([[rollout]], RewardsConfig(weights={"evidence": 1.0, "own_answer": 1.0}), env.count_tokens)
    np.testing.assert_array_equal(turns.speaks["evidence"], [True, True, False, False])
    np.testing.assert_array_equal(turns.terms["own_answer"], [0, 0, 1, 0])


def test_ragged_turns_are_credited_by_trajectory(env):
    right, _ = played(env, SAID)
    short = dataclasses.replace(EPISODE, chunks=EPISODE.chunks[:1])
    wrong, _ = played(env, (insert(CHUNKS[0]), "nobody", "blue"), short)
    weights = {"outcome": 1.0}
    turns = tabulate([[right, wrong]], RewardsConfig(weights=weights), env.count_tokens)
    cfg = AdvantageConfig(credit="trajectory", std="none")
    found = advantages(turns, weights, cfg)
    np.testing.assert_allclose(found, [0.25] * 4 + [-0.25] * 3)  # not weighed by how many turns there are


def test_a_prompt_without_room_leaves_the_worst_items_out(env):
    rollout, turns = played(env, SAID)
    limit = len(turns[3].prompt_tokens) - 1
    narrow = dataclasses.replace(env, prompt=dataclasses.replace(env.prompt, max_prompt_tokens=limit))
    again, short = played(narrow, SAID)
    assert len(short[3].prompt_tokens) <= limit
    assert again.answers[1].retrieved == rollout.answers[1].retrieved[:1] != rollout.answers[1].retrieved


# --------------------------------------------------------------------------------------------------------------
# One text that is rewritten
# --------------------------------------------------------------------------------------------------------------


def rewriting(env, codec="raw", **method):
    prompt = dataclasses.replace(env.prompt, name={"raw": "memagent", "think": "mem1"}[codec], codec=codec)
    memory = MemoryConfig(name="overwrite", max_tokens=32)
    method = MethodConfig(answers="policy", answer_tokens=7, **method)
    return dataclasses.replace(env, memory=memory, prompt=prompt, method=method)


def played_as(env, said):
    game = play(env, EPISODE, Asked(((), ()), EPISODE.questions), lambda requests: [])
    turns = [next(game)]
    for text in said:
        tokens = (*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id)
        try:
            turns.append(game.send(Completion(tokens, (-0.5,) * len(tokens), "stop")))
        except StopIteration as end:
            return end.value(), [env.tokenizer.decode(turn.prompt_tokens) for turn in turns]
    raise AssertionError("the episode wants more turns")


def test_memagent_rewrites_one_text_and_answers_in_a_box(env):
    rollout, prompts = played_as(
        rewriting(env), ["the dentist is Orlov", "Orlov; the sofa is red", "it is \\boxed{Orlov}", "red"]
    )
    assert [[item.text for item in step.memory_after.items] for step in rollout.of(WRITE)] == [
        ["the dentist is Orlov"],
        ["Orlov; the sofa is red"],
    ]
    assert "the dentist is Orlov" in prompts[1] and CHUNKS[0] not in prompts[1]
    assert "Orlov; the sofa is red" in prompts[2] and QUESTIONS[0].text in prompts[2] and "Be brief." in prompts[2]
    assert [(a.text, a.score) for a in rollout.answers] == [("Orlov", 1.0), ("", 0.0)]  # no box, no answer
    assert all(a.retrieved[0].text == "Orlov; the sofa is red" for a in rollout.answers)


def test_mem1_keeps_its_last_thought(env):
    said = [
        "<think>hm</think> so <think>Orlov</think> ok",
        "<think>Orlov, red</think>",
        "\\boxed{Orlov}",
        "\\boxed{red}",
    ]
    rollout, prompts = played_as(rewriting(env, "think"), said)
    assert [step.memory_after.items[0].text for step in rollout.of(WRITE)] == ["Orlov", "Orlov, red"]
    assert "Your state:\nOrlov\n" in prompts[1] and "hm" not in prompts[1]
    assert [a.score for a in rollout.answers] == [1.0, 1.0]


@pytest.mark.parametrize("codec", ["raw", "think"])
def test_the_question_is_seen_while_writing_only_where_the_method_says_so(env, codec):
    said = ["<think>a</think> b", "<think>c</think> d", "", ""]
    for sees in (True, False):
        _, prompts = played_as(rewriting(env, codec, sees_question=sees), said)
        assert [question.text in prompt for prompt in prompts[:2] for question in QUESTIONS] == [sees] * 4


def test_the_text_is_in_every_prompt_however_long_it_is_or_the_episode_does_not_begin(env):
    """Its writer cannot keep what it does not see: a prompt without room for the longest text is refused before."""
    own = rewriting(env)
    own = dataclasses.replace(own, memory=dataclasses.replace(own.memory, view=ViewConfig(max_items=0, max_tokens=0)))
    _, prompts = played_as(own, ["the dentist is Orlov", "x", "", ""])
    assert "the dentist is Orlov" in prompts[1]
    room = prompt_tokens(CHUNKS[0], own)
    short = dataclasses.replace(own, memory=dataclasses.replace(own.memory, max_tokens=1))
    assert room == prompt_tokens(CHUNKS[0], short) + 31
    tight = dataclasses.replace(own, prompt=dataclasses.replace(own.prompt, max_prompt_tokens=room - 1))
    with pytest.raises(UserError, match=r"config\.prompt\.max_prompt_tokens"):
        with_fitting_chunks((EPISODE,), tight, "stop")


def test_a_run_in_the_manner_of_memagent_can_begin(env):
    cfg = main.load_config("configs/neighbours/memagent.py", [])
    own = dataclasses.replace(env, memory=cfg.memory, prompt=cfg.prompt, method=cfg.method)
    rehearse(own, cfg.rewards, cfg.advantage)
    turns = tabulate([[played_as(own, ["a", "b", "\\boxed{Orlov}", "red"])[0]]], cfg.rewards, env.count_tokens)
    np.testing.assert_array_equal(turns.terms["outcome"], [0.5] * 4)
