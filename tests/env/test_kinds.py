"""Items of several kinds: pinned ones are always seen, the others may be chosen by kind, in views and in retrieval."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finemem_jax.config import RetrievalConfig, UserError, ViewConfig
from finemem_jax.env.environment import retriever, turn_prompt, view
from finemem_jax.types import MemoryItem
from tests import fakes

# (kind, text): the core is the oldest, events are newer than facts
ITEMS = tuple(
    MemoryItem(f"#{i}", text, i, kind)
    for i, (kind, text) in enumerate(
        [
            ("core", "Maya likes tea"),
            ("fact", "Orlov is a dentist"),
            ("fact", "Leo has a sofa"),
            ("event", "Leo met Orlov"),
            ("event", "Leo bought a sofa"),
            ("event", "it rained"),
        ]
    )
)


class Held:
    items = ITEMS


def seen(env, chunk="", **settings):
    cfg = ViewConfig(**settings)
    env = replace(env, memory=replace(env.memory, view=cfg))
    return [item.id for item in view(Held, chunk, cfg, env)]


def found(env, question, **settings):
    env = replace(env, retrieval=RetrievalConfig(**settings))
    return [item.id for item in retriever(ITEMS, env)(question)]


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({"max_items": 2}, ["#4", "#5"]),
        ({"max_items": 2, "pinned": ("core",)}, ["#0", "#4", "#5"]),
        ({"max_items": 2, "per_kind": 1}, ["#0", "#2", "#5"]),
        ({"per_kind": 1, "pinned": ("core",)}, ["#0", "#2", "#5"]),
        ({"per_kind": 2, "pinned": ("core", "event")}, ["#0", "#1", "#2", "#3", "#4", "#5"]),
        ({"max_tokens": 0, "pinned": ("core",)}, ["#0"]),
        ({"max_items": 0, "pinned": ("nothing",)}, []),
    ],
)
def test_a_view_pins_kinds_and_is_split_by_kind(env, settings, ids):
    assert seen(env, **settings) == ids


def test_of_every_kind_the_items_relevant_to_the_chunk(env):
    assert seen(env, "the sofa", select="relevant", per_kind=1, pinned=("core",)) == ["#0", "#2", "#4"]
    assert seen(env, "the sofa", select="both", per_kind=2) == ["#0", "#1", "#2", "#4", "#5"]


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({"k": 1}, ["#2"]),
        ({"k": 1, "pinned": ("core",)}, ["#0", "#2"]),
        ({"per_kind": 1}, ["#4", "#2"]),  # kinds in turn
        ({"per_kind": 2, "pinned": ("core",)}, ["#0", "#4", "#2", "#3", "#1"]),
        ({"select": "all", "pinned": ("core",)}, [item.id for item in ITEMS]),
    ],
)
def test_retrieval_pins_kinds_and_searches_each_by_itself(env, settings, ids):
    assert found(env, "has Leo a sofa?", **settings) == ids


def test_what_is_pinned_comes_before_what_is_found_where_there_is_little_room(env):
    assert found(env, "has Leo a sofa?", k=5, max_tokens=3, pinned=("core",)) == []  # not even that
    room = env.count_tokens("Maya likes tea")
    assert found(env, "has Leo a sofa?", k=5, max_tokens=room, pinned=("core",)) == ["#0"]
    assert found(env, "has Leo a sofa?", select="all", max_tokens=room, pinned=("core",)) == ["#0"]


def test_what_is_pinned_never_leaves_the_prompt(env):
    pinned = replace(env, memory=replace(env.memory, view=ViewConfig(pinned=("core",))))
    whole, _ = turn_prompt(pinned, "chunk", ITEMS)
    narrow = replace(pinned, prompt=replace(env.prompt, max_prompt_tokens=len(whole) - 1))
    tokens, shown = turn_prompt(narrow, "chunk", ITEMS)
    assert len(tokens) < len(whole) and [item.id for item in shown] == ["#0", "#4", "#5"]
    with pytest.raises(UserError, match="beside what is always shown of memory, more than"):
        turn_prompt(replace(pinned, prompt=replace(env.prompt, max_prompt_tokens=20)), "chunk", ITEMS)


def test_an_item_says_its_kind_to_who_reads_it(env):
    assert {item.kind for item in retriever(ITEMS, env)("Orlov Leo Maya")} == {"core", "fact", "event"}
    assert fakes.flat_memory().items == ()
