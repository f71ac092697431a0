"""Memory systems that are made of calls to a chat model, with a model that says what each test tells it to."""

from __future__ import annotations

import dataclasses
import json
import math
from concurrent.futures import Future

import pytest

from finemem_jax.config import Config, PromptConfig, resolve
from finemem_jax.env.environment import all_questions, play
from finemem_jax.types import EXTRACT, WRITE, Chunk, Completion, Episode, Question, Reply

SYSTEMS = ("mem0_paper", "mem0_package", "amem", "memorybank")


def episode(*texts, times=(), question="what is Maya's dentist?", gold="Petrov"):
    chunks = tuple(Chunk(text, i, time=times[i] if times else "") for i, text in enumerate(texts))
    return Episode("e", "x", chunks, (Question(question, (gold,), "substring_match"),))


def run(env, name, told, say):
    """(the rollout, what each turn read) with a model whose reply to a turn is say(messages, number of the turn)."""
    cfg = resolve("finemem_jax.baselines", name).contestant(Config()).cfg
    roomy = PromptConfig(name="compact", max_prompt_tokens=100_000)
    env = dataclasses.replace(env, memory=cfg.memory, method=cfg.method, prompt=roomy, retrieval=cfg.retrieval)
    items = []

    def ask(requests):
        items.extend(request.items for request in requests)
        futures = [Future() for _ in requests]
        for future, request in zip(futures, requests, strict=True):
            future.set_result(Reply(" ".join(item.text for item in request.items)))
        return futures

    game, reply, read = play(env, told, all_questions(told), ask), None, []
    try:
        while True:
            turn = game.send(reply)
            assert turn.prompt_tokens and turn.messages[0]["role"] == "system"
            read.append(turn.messages[-1]["content"])
            text = say(read[-1], len(read) - 1)
            tokens = (*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id)
            reply = Completion(tokens, (0.0,) * len(tokens), "stop")
    except StopIteration as end:
        return end.value(), read


def contents(rollout):
    return [item.text for item in rollout.memory.items]


def scripted(*replies):
    return lambda read, number: replies[number] if isinstance(replies[number], str) else json.dumps(replies[number])


def test_mem0_of_the_paper_merges_each_fact_into_what_is_near_it(env):
    told = episode(
        "Maya: my dentist is Orlov. I like tea.", "Maya: Petrov is my dentist now, and no tea for me.", "bye"
    )
    rollout, read = run(
        env,
        "mem0_paper",
        told,
        scripted(
            {"facts": ["Maya's dentist is Orlov", "Maya likes tea"]},
            {"memory": [{"id": "0", "text": "Maya's dentist is Orlov", "event": "ADD"},
                        {"id": "1", "text": "Maya likes tea", "event": "add"}]},
            '```json\n{"facts": ["Maya\'s dentist is Petrov", "Maya drinks no tea"]}\n```',
            {"memory": [{"id": "0", "text": "Maya's dentist is Petrov", "event": "UPDATE", "old_memory": "x"},
                        {"id": 1, "text": "", "event": "DELETE"}, {"id": "7", "text": "y", "event": "UPDATE"},
                        {"id": "0", "text": "z", "event": "NONE"}, {"id": "0", "event": "BURN"}, "?"]},
            {"facts": []},
        ),
    )  # fmt: skip
    assert contents(rollout) == ["Maya's dentist is Petrov"] and rollout.final_answers[0].score == 1.0
    assert [step.role for step in rollout.steps] == [EXTRACT, WRITE, EXTRACT, WRITE, WRITE]  # no fact: no second call
    assert "my dentist is Orlov" in read[2]  # what was said before
    assert "0: Maya's dentist is Orlov\n1: Maya likes tea" in read[3] and "- Maya drinks no tea" in read[3]
    statuses = [outcome.status for outcome in rollout.steps[3].outcomes]
    assert statuses == ["applied", "applied", "unknown id", "malformed: event 'BURN'"]


def test_mem0_of_the_package_only_adds(env):
    told = episode("Maya: my dentist is Orlov.", "Maya: Petrov is my dentist now.")
    rollout, read = run(
        env,
        "mem0_package",
        told,
        scripted(
            {
                "memory": [
                    {"text": "Maya's dentist is Orlov", "attributed_to": "Maya"},
                    {"text": "Maya's dentist is Orlov."},
                ]
            },
            {"memory": [{"text": "Maya's dentist is Petrov"}, "a text alone", {"text": 3}, None]},
        ),
    )
    assert contents(rollout) == ["Maya's dentist is Orlov", "Maya's dentist is Petrov", "a text alone"]
    assert [o.status for o in rollout.steps[0].outcomes] == ["applied", "duplicate"]
    assert len(rollout.steps) == 2 and "0: Maya's dentist is Orlov" in read[1]


def test_a_mem_rewrites_the_neighbours_that_were_shown_and_follows_links(env):
    """The published code takes their rank for a place in the store: it would rewrite the first note."""
    texts = ["rain over Oslo", "snow in Rome", "Maya saw her dentist Orlov", "Maya's dentist Orlov moved, Petrov came"]

    def note(word):
        return {"keywords": [word], "context": f"about {word}", "tags": ["t"]}

    replies = [note("rain"), note("snow"), note("teeth")]
    replies += [
        note("move"),
        {"should_evolve": True, "actions": ["strengthen", "update_neighbor"], "suggested_connections": [0, 9],
         "tags_to_update": ["linked"], "neighbors": [{"number": "0", "context": "an old dentist", "tags": []}]},
    ]  # fmt: skip
    rollout, read = run(env, "amem", episode(*texts, question="who moved?"), scripted(*replies))
    assert len(read) == 5 and read[4].count("\n0: ") == 1  # only the third note shares a word with the fourth
    notes = contents(rollout)
    assert "context: about rain" in notes[0] and "context: about snow" in notes[1]  # the first ones stay as they were
    assert "context: an old dentist" in notes[2] and "keywords: teeth" in notes[2] and notes[2].startswith(texts[2])
    assert "tags: linked" in notes[3]
    assert [item.text.splitlines()[0] for item in rollout.final_answers[0].retrieved] == [texts[3], texts[2]]


def test_a_mem_keeps_a_note_whatever_the_model_says(env):
    rollout, _ = run(env, "amem", episode("tea is hot", "tea is cold"), lambda read, number: "no JSON at all")
    assert contents(rollout) == ["tea is hot", "tea is cold"]
    assert rollout.steps[-1].outcomes[-1].status.startswith("malformed: no JSON object")


def test_memorybank_forgets_by_the_curve_and_the_draw_is_fixed(env):
    days = [f"2024-01-{day:02}T10:00:00" for day in range(1, 9)]
    told = episode(*(f"User: event {i} happened\nAI: noted {i}\nUser: more {i}" for i in range(8)), times=days)
    say = lambda read, number: f"reply {number}"  # noqa: E731
    rollout, read = run(env, "memorybank", told, say)
    again, _ = run(env, "memorybank", told, say)
    assert contents(rollout) == contents(again) and len(read) == 16
    final = contents(rollout)
    assert "User: event 7 happened\nAI: noted 7" in final and "User: more 7" in final  # of today: t = 0 is kept
    assert "Summary of 2024-01-08: reply 14" in final and "Personality of 2024-01-08: reply 15" in final
    old = [text for text in final if "event 0" in text or "2024-01-01" in text]
    assert len(old) < 4 and len(final) < 8 * 4  # the chance that all stay is exp(-28 * 4)
    one_day = episode(*(chunk.text for chunk in told.chunks), times=[days[0]] * 8)
    assert len(contents(run(env, "memorybank", one_day, say)[0])) == 8 * 4  # no day has gone by


def test_retention_is_the_papers_formula():
    retention = resolve("finemem_jax.methods", "memorybank").retention
    for days in (0.0, 0.5, 1.0, 7.0):
        for strength in (1, 2, 5):
            assert retention(days, strength) == pytest.approx(math.exp(-days / strength), abs=1e-12)
    assert retention(3.0, 5) > retention(3.0, 1)  # the published code has it the other way round


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_reply_that_cannot_be_read_is_on_record(env, name):
    rollout, _ = run(env, name, episode("a is b", "c is d"), lambda read, number: "{ nothing")
    statuses = [outcome.status for step in rollout.steps for outcome in step.outcomes]
    assert len(rollout.final_answers) == 1
    assert name == "memorybank" or any(status.startswith("malformed") for status in statuses) or name == "amem"
    assert {step.chunk for step in rollout.of(WRITE)} == {0, 1}


@pytest.mark.parametrize("name", SYSTEMS)
def test_questions_are_asked_when_they_are_due(env, name):
    told = episode("a is b", "c is d")
    early = dataclasses.replace(told.questions[0], after=0, text="what is a?")
    told = dataclasses.replace(told, questions=(early, *told.questions))
    rollout, _ = run(env, name, told, lambda read, n: f'{{"memory": [{{"text": "note {n}"}}], "facts": []}}')
    first, last = rollout.final_answers
    assert first.question.after == 0 and last.question.after is None
    assert all(item.written_at <= 1 for item in first.retrieved)
