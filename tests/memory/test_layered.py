"""A core and two lists, written by three tools; a core that is too long is refused, and its writer told."""

from __future__ import annotations

import dataclasses

import pytest

from finemem_jax.config import MemoryConfig, MethodConfig, PromptConfig, RetrievalConfig, ViewConfig, resolve
from finemem_jax.env.environment import Asked, apply, play
from finemem_jax.env.operations import emit, parse
from finemem_jax.memory import layered
from finemem_jax.types import Chunk, Completion, Episode, Operation
from tests import fakes


def memory(**limits):
    return layered.create(MemoryConfig(**{"max_item_tokens": 6, **limits}), fakes.count_words)


def insert(kind, content):
    return Operation("new_memory_insert", {"memory_type": f"{kind}_memory", "content": content})


def update(kind, content, **at):
    return Operation("memory_update", {"memory_type": f"{kind}_memory", "new_content": content, **at})


def delete(kind, **at):
    return Operation("memory_delete", {"memory_type": f"{kind}_memory", **at})


def after(*operations, start=None, step=0):
    """The memory after operations, and what became of them."""
    held = start or memory()
    return apply(held, operations, step, MemoryConfig(), held.items)


def test_each_part_is_written_and_told_apart():
    held, outcomes = after(
        insert("episodic", "at noon it rained"),
        insert("semantic", "Orlov is a dentist"),
        update("core", "Maya likes tea"),
    )
    assert [(i.id, i.kind, i.text) for i in held.items] == [
        ("c1", "core", "Maya likes tea"),
        ("s1", "semantic", "Orlov is a dentist"),
        ("e1", "episodic", "at noon it rained"),
    ]
    assert [(o.status, o.verb, o.item) for o in outcomes] == [
        ("applied", "insert", "e1"),
        ("applied", "insert", "s1"),
        ("applied", "replace", "c1"),
    ]
    assert held.tokens() == 3 + 4 + 4
    held, outcomes = after(
        update("semantic", "Petrov is a dentist", memory_id="s1"),
        delete("episodic", memory_id="e1"),
        update("core", "Maya likes rain"),
        start=held,
        step=2,
    )
    assert [(i.id, i.text, i.written_at, i.writers) for i in held.items] == [
        ("c1", "Maya likes rain", 2, (0, 2)),
        ("s1", "Petrov is a dentist", 2, (0, 2)),
    ]
    held, _ = after(delete("core"), start=held, step=3)
    assert [item.id for item in held.items] == ["s1"]


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (update("semantic", "x"), "malformed: memory_id is missing"),
        (delete("episodic"), "malformed: memory_id is missing"),
        (update("semantic", "x", memory_id="s9"), "unknown id"),
        (update("episodic", "x", memory_id="s1"), "unknown id"),  # of another part
        (delete("semantic", memory_id="c1"), "unknown id"),
        (insert("semantic", "orlov is a dentist."), "duplicate"),
        (insert("semantic", " "), "malformed: empty content"),
        (insert("semantic", "one two three four five six seven"), "over limit"),
        (Operation("search_memory", {"memory_type": "semantic_memory"}), "malformed: unknown tool 'search_memory'"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(operation, status):
    start, _ = after(insert("semantic", "Orlov is a dentist"), update("core", "Maya likes tea"))
    held, (outcome,) = after(operation, start=start, step=1)
    assert held.items == start.items and (outcome.status, outcome.ok) == (status, False)


def test_an_empty_core_cannot_be_emptied_and_takes_no_id():
    assert after(delete("core"))[1][0].status == "unknown id"
    held, (outcome,) = after(update("core", "Maya likes tea", memory_id="s9"))
    assert outcome.ok and held.items[0].id == "c1"


def test_the_same_may_stand_in_two_parts():
    _, outcomes = after(insert("semantic", "tea"), insert("episodic", "tea"), update("core", "tea"))
    assert all(outcome.ok for outcome in outcomes)


def test_a_core_that_is_too_long_is_refused_and_its_writer_told_until_it_writes_another(env):
    env = dataclasses.replace(
        env,
        memory=MemoryConfig(name="layered", max_item_tokens=24, view=ViewConfig(per_kind=1)),
        prompt=PromptConfig(name="memalpha", codec="lines"),
        retrieval=RetrievalConfig(per_kind=1),
        method=MethodConfig(),
    )
    said = [
        update("core", "Maya likes tea"),
        update("core", "tea " * 60),
        insert("semantic", "a"),
        update("core", "Leo"),
    ]
    episode = Episode("e", "test", tuple(Chunk(f"day {i}", i) for i in range(5)), ())
    game = play(env, episode, Asked(((),) * 5, ()), lambda requests: [])
    prompts = [env.tokenizer.decode(next(game).prompt_tokens)]
    for operation in said:
        tokens = env.tokenizer.encode(emit([operation], "lines", env.specs), add_special_tokens=False)
        turn = game.send(Completion((*tokens, env.tokenizer.eos_token_id), (0.0,) * (len(tokens) + 1), "stop"))
        prompts.append(env.tokenizer.decode(turn.prompt_tokens))
    told = "Your last core memory was refused: it had"
    assert [told in prompt for prompt in prompts] == [False, False, True, True, False]
    assert "[c1] Maya likes tea" in prompts[2] and "[c1] Leo" in prompts[4] and "at most 24 are allowed" in prompts[3]


def test_its_calls_are_those_of_the_released_weights():
    text = (
        '✿FUNCTION✿: memory_update\n✿ARGS✿: {"memory_type": "core_memory", "new_content": "Maya likes tea"}\n'
        '✿FUNCTION✿: new_memory_insert\n✿ARGS✿: {"memory_type": "core_memory", "content": "x"}\n'
        '✿FUNCTION✿: memory_delete\n✿ARGS✿: {"memory_type": "semantic_memory", "memory_id": "s1"}\n'
    )
    first, second, third = parse(text, layered.SPECS, codec="function_args")
    assert first == update("core", "Maya likes tea") and third == delete("semantic", memory_id="s1")
    assert second.error == (
        "malformed: argument 'memory_type' is 'core_memory', allowed: semantic_memory, episodic_memory"
    )
    assert "core_memory" in resolve("finemem_jax.codecs", "function_args").instructions(layered.SPECS)
