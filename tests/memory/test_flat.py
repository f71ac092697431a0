"""The flat memory: operations, limits, and what must hold after any sequence of operations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.config import MemoryConfig
from finemem_jax.types import Operation
from tests.fakes import count_words, flat_memory


def insert(text):
    return Operation("memory_insert", {"content": text})


def update(item, text):
    return Operation("memory_update", {"id": item, "content": text})


def delete(item):
    return Operation("memory_delete", {"id": item})


def run(memory, *operations, start=0):
    outcomes = []
    for step, operation in enumerate(operations, start):
        memory, outcome = memory.apply(operation, step)
        outcomes.append(outcome.status)
    return memory, outcomes


def test_the_four_operations():
    memory, outcomes = run(
        flat_memory(), insert("a"), insert("b"), update("#1", "c"), delete("#2"), Operation("memory_skip"), insert("d")
    )
    assert outcomes == ["applied", "applied", "applied", "applied", "skipped", "applied"]
    assert [(i.id, i.text, i.written_at, i.writers) for i in memory.items] == [
        ("#1", "c", 2, (0, 2)),
        ("#3", "d", 5, (5,)),  # the id of a deleted item is never used again
    ]


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (insert("a"), "duplicate"),
        (update("#1", "a"), "duplicate"),
        (update("#9", "x"), "unknown id"),
        (delete("#9"), "unknown id"),
        (insert("  "), "malformed: empty content"),
        (insert("one two three four"), "over limit"),
        (Operation("memory_insert", error="malformed: cut off"), "malformed: cut off"),
    ],
)
def test_what_does_not_apply_leaves_memory_as_it_was(operation, status):
    memory, _ = run(flat_memory(MemoryConfig(max_item_tokens=3)), insert("a"))
    after, outcome = memory.apply(operation, 1)
    assert after == memory and outcome.status == status and not outcome.ok


def test_refuse_keeps_the_old_items_and_evict_takes_the_oldest_written():
    full, _ = run(flat_memory(MemoryConfig(max_items=2)), insert("a"), insert("b"))
    after, outcomes = run(full, insert("c"), start=2)
    assert after == full and outcomes == ["over limit"]
    full, _ = run(
        flat_memory(MemoryConfig(max_items=2, overflow="evict_oldest")), insert("a"), insert("b"), update("#1", "c")
    )
    after, outcome = full.apply(insert("d"), 3)
    assert [item.text for item in after.items] == ["c", "d"]  # "b" is the oldest *write*, though "#1" is older
    assert outcome.evicted == ("#2",)


def test_an_item_too_big_for_the_whole_memory_evicts_nothing():
    memory, _ = run(flat_memory(MemoryConfig(max_tokens=2, overflow="evict_oldest")), insert("a"))
    after, outcome = memory.apply(insert("x y z"), 1)
    assert after == memory and outcome.status == "over limit"


texts = st.text("ab ", max_size=6)
ids = st.sampled_from(["#1", "#2", "#3", "#9", ""])
operations = st.one_of(
    texts.map(insert), st.builds(update, ids, texts), ids.map(delete), st.just(Operation("memory_skip"))
)


@given(st.lists(operations, max_size=25), st.sampled_from(["refuse", "evict_oldest"]))
def test_invariants_after_any_operations(sequence, overflow):
    cfg = MemoryConfig(max_items=3, max_tokens=6, max_item_tokens=3, overflow=overflow)
    memory, seen = flat_memory(cfg), set()
    for step, operation in enumerate(sequence):
        before, snapshot = memory, memory.items
        memory, outcome = memory.apply(operation, step)
        assert before.items == snapshot  # the old value is untouched
        assert len(memory.items) <= 3 and memory.tokens() <= 6
        assert memory.tokens() == sum(count_words(item.text) for item in memory.items)
        assert len({i.id for i in memory.items}) == len({i.text for i in memory.items}) == len(memory.items)
        fresh = {i.id for i in memory.items} - {i.id for i in before.items}
        assert not fresh & seen
        seen |= fresh
        assert all(i.written_at == i.writers[-1] and count_words(i.text) <= 3 for i in memory.items)
        if not outcome.ok or outcome.status == "skipped":
            assert memory == before
