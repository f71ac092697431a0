"""The stream method: who answers, what an answering turn holds, and what it does not touch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax.config import AdvantageConfig, MethodConfig, RewardsConfig, resolve
from finemem_jax.env.environment import Asked, play
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
