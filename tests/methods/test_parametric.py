"""The parametric method: what is read before a write, what is learned of it, and under which weights each turn is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax.config import Config, FastConfig, MemoryConfig, MethodConfig, RewardsConfig, UserError, resolve
from finemem_jax.env.environment import Asked, play
from finemem_jax.env.turns import tabulate
from finemem_jax.imitation.demonstrations import demonstrated
from finemem_jax.loading import check_method
from finemem_jax.types import ANSWER, EXTRACT, WRITE, Chunk, Completion, Episode, Learn, Question, Written

TEXTS = ("Maya's dentist is Orlov", "Leo has a red sofa", "Anna moved to Oslo")
ABOUT = tuple(
    Question(text, (answer,))
    for text, answer in (("who is Maya's dentist?", "Orlov"), ("what has Leo?", "sofa"), ("where is Anna?", "Oslo"))
)
CHUNKS = tuple(Chunk(text, i, (question,)) for i, (text, question) in enumerate(zip(TEXTS, ABOUT, strict=True)))
EPISODE = Episode("e", "test", CHUNKS, ABOUT[:2], "Be brief.")
PAIRS = "learn: who is Maya's dentist? | Orlov\nlearn: what has Leo? | a red sofa"


def fast_env(env, memory="none", **fast):
    method = MethodConfig(name="parametric", answers="policy", answer_tokens=7, fast=FastConfig(rank=2, **fast))
    return dataclasses.replace(env, method=method, memory=MemoryConfig(name=memory))


def two_chunks(env):
    """A context that holds the first two chunks and not the third."""
    return sum(env.count_tokens(text) for text in TEXTS[:2])


def played(env, said, finish="stop"):
    """The rollout of a policy that says these texts, and what was asked of the engine."""

    def ask(requests):
        raise AssertionError("the answerer is asked although the policy answers")

    game = play(env, EPISODE, Asked(((),) * 3, EPISODE.questions), ask)
    texts, events, number = iter(said), [next(game)], 0
    try:
        while True:
            if isinstance(events[-1], Learn):
                number += 1
                events.append(game.send(Written(number, 3.0, 1.0 / number)))
            else:
                tokens = (*env.tokenizer.encode(next(texts), add_special_tokens=False), env.tokenizer.eos_token_id)
                events.append(game.send(Completion(tokens, (-0.5,) * len(tokens), finish)))
    except StopIteration as end:
        assert next(texts, None) is None
        return end.value(), events


def texts_of(env, event):
    """(given, learned) of every lesson."""
    decode = env.tokenizer.decode
    return [(decode(x.tokens[: x.start]), decode(x.tokens[x.start :])) for x in event.lessons]


def test_it_writes_what_the_context_held_and_goes_on_under_the_new_weights(env):
    env = fast_env(env, context_tokens=two_chunks(env))
    rollout, events = played(env, [PAIRS, "learn: where is Anna? | Oslo", "Orlov", "green"])
    assert [
        (e.role, e.chunk, e.fast) if not isinstance(e, Learn) else ("learn", len(e.lessons), e.fast) for e in events
    ] == [
        (EXTRACT, 1, 0),
        ("learn", 2, 0),
        (EXTRACT, 2, 1),
        ("learn", 1, 1),
        (ANSWER, None, 2),
        (ANSWER, None, 2),
    ]
    shown = [env.tokenizer.decode(event.prompt_tokens) for event in events if not isinstance(event, Learn)]
    assert all(text in shown[0] for text in TEXTS[:2]) and TEXTS[2] not in shown[0]
    assert TEXTS[2] in shown[1] and TEXTS[1] not in shown[1]
    assert not any(text in prompt for text in TEXTS for prompt in shown[2:])  # the context is forgotten
    # The reply alone is learned, in the very prompt in which the question is asked at the end.
    assert texts_of(env, events[1])[0] == (shown[2], f"Orlov{env.tokenizer.eos_token}")
    assert [(a.text, a.score) for a in rollout.answers] == [("Orlov", 1.0), ("green", 0.0)]
    assert [step.fast for step in rollout.steps] == [0, 1, 2, 2]
    assert [(w.turn, w.chunks, w.texts, w.loss_after) for w in rollout.writes] == [
        (0, (0, 1), 2, 1.0),
        (1, (2,), 1, 0.5),
    ]


def test_what_is_written_badly_is_data_and_what_is_not_learned_earns_nothing(env):
    env = fast_env(env, max_texts=2)
    said = (
        f"It rains.\n{PAIRS}\nlearn: What has  LEO? | a sofa\nlearn: where? |\nlearn: where is Anna? | Oslo\nlearn: who"
    )
    rollout, events = played(env, [said, "a", "b"])
    statuses = [outcome.status for outcome in rollout.steps[0].outcomes]
    assert statuses[:2] == ["applied", "applied"] and statuses[2:] == [
        "duplicate",
        "malformed: empty question or reply",
        "over limit",
        "malformed: 1 of 2 arguments: question | reply",
    ]
    assert len(events[1].lessons) == 2
    weights = {"format": 1.0, "outcome": 1.0}
    turns = tabulate([[rollout]], RewardsConfig(weights=weights), env.count_tokens)
    np.testing.assert_allclose(turns.terms["format"], [1 / 3, 0, 0])
    assert turns.speaks["outcome"].all() and turns.speaks["format"].tolist() == [True, False, False]
    lazy, events = played(env, ["nothing to say", "a", "b"])  # no pair: nothing is learned, and nothing earned
    assert not any(isinstance(event, Learn) for event in events) and lazy.writes == ()
    assert tabulate([[lazy]], RewardsConfig(weights=weights), env.count_tokens).terms["format"][0] == 0
    long, _ = played(fast_env(env, text_tokens=12), ["learn: who? | " + "very " * 12 + "long", "a", "b"])
    assert [outcome.status for outcome in long.steps[0].outcomes] == ["over limit"]


def test_forms_and_supervisions(env):
    said = ["learn: where is Anna? | Oslo", "a", "b"]
    every = fast_env(env, forms=("question", "statement", "turned"))
    _, events = played(every, said)
    learned = ["".join(pair) for pair in texts_of(every, events[1])]
    end = env.tokenizer.eos_token
    assert learned[1:] == [f"where is Anna? Oslo{end}", f"Oslo: where is Anna?{end}"] and learned[0].endswith(
        f"Oslo{end}"
    )
    _, events = played(fast_env(env, learns="all"), said)
    assert [lesson.start for lesson in events[1].lessons] == [1]
    whole = "\n\n".join(TEXTS)
    _, events = played(fast_env(env, supervision="text", text_tokens=6), ["a", "b"])
    assert isinstance(events[0], Learn) and all(len(lesson.tokens) <= 6 for lesson in events[0].lessons)
    assert "".join(map("".join, texts_of(env, events[0]))) == whole + end
    rollout, events = played(fast_env(env, supervision="summary"), ["Maya sees Orlov.", "a", "b"])
    assert ["".join(pair) for pair in texts_of(env, events[1])] == [f"Maya sees Orlov.{end}"]
    assert rollout.steps[0].outcomes[0].ok
    empty, _ = played(fast_env(env, supervision="summary"), ["", "a", "b"])
    assert empty.steps[0].outcomes == () and empty.writes == ()


def test_a_text_memory_beside_it_is_written_chunk_by_chunk_and_read_by_the_answers(env):
    insert = '<tool_call>\n{{"name": "memory_insert", "arguments": {{"content": "{}"}}}}\n</tool_call>'
    env = fast_env(env, memory="flat", context_tokens=two_chunks(env))
    written = [insert.format(text) for text in TEXTS]
    rollout, _ = played(env, [*written[:2], PAIRS, written[2], "nothing", "Orlov", "sofa"])
    assert [(step.role, step.fast) for step in rollout.steps] == [
        (WRITE, 0),
        (WRITE, 0),
        (EXTRACT, 0),
        (WRITE, 1),
        (EXTRACT, 1),
        (ANSWER, 1),
        (ANSWER, 1),
    ]
    assert len(rollout.memory.items) == 3
    assert "dentist is Orlov" in env.tokenizer.decode(rollout.steps[-2].prompt_tokens)


def test_probes_ask_the_weights_before_and_after_and_are_no_turns_of_the_rollout(env):
    env = fast_env(env, probes=2)
    rollout, events = played(env, [PAIRS, "who knows", "no idea", "Orlov", "red sofa", "a", "b"])
    asked = [(e.fast, e.index >= 1 << 20) for e in events if not isinstance(e, Learn)]
    assert asked == [(0, False), (0, True), (0, True), (1, True), (1, True), (1, False), (1, False)]
    assert len({e.index for e in events if not isinstance(e, Learn)}) == 7  # each draws its own randomness
    assert [(r.before, r.score_before, r.after, r.score_after) for r in rollout.writes[0].recalls] == [
        ("who knows", 0.0, "Orlov", 1.0),
        ("no idea", 0.0, "red sofa", 1.0),
    ]
    assert [step.index for step in rollout.steps] == [0, 1, 2]


def test_the_expert_demonstrates_pairs_that_are_read_as_they_are_meant_and_answers(env):
    env = fast_env(env, context_tokens=two_chunks(env))
    (rollout,) = demonstrated(Config(), env, [EPISODE])
    assert [[o.arguments["reply"] for o in step.operations] for step in rollout.of(EXTRACT)] == [
        ["Orlov", "sofa"],
        ["Oslo"],
    ]
    assert all(outcome.ok for step in rollout.of(EXTRACT) for outcome in step.outcomes)
    assert all(answer.score == 1.0 for answer in rollout.answers) and len(rollout.writes) == 2


def test_configs_that_cannot_work_are_refused():
    def check(**method):
        check_method(Config(method=MethodConfig(**method)))

    with pytest.raises(UserError, match=r"fast\.rank=0 is none"):
        check(name="parametric", answers="policy")
    with pytest.raises(UserError, match=r"answers=answerer: what .* has learned"):
        check(name="parametric", fast=FastConfig(rank=2))
    with pytest.raises(UserError, match=r"name=stream writes no fast weights"):
        check(fast=FastConfig(rank=2))
    check(name="parametric", answers="policy", fast=FastConfig(rank=2))
    assert resolve("finemem_jax.methods", "parametric").WRITES_FAST
