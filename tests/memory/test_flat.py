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


SAME = (
    "Maya's dentist is Orlov",
    "maya's dentist is orlov.",
    " Maya's  dentist is Orlov\n",
    "“Maya’s dentist is Orlov!”",
    "Maya's dentist is Orlov\u200b",
    "Ｍaya's dentist is Orlov",
)


@pytest.mark.parametrize("text", SAME)
def test_a_text_that_says_the_same_as_an_item_is_a_duplicate(text):
    memory, _ = run(flat_memory(), insert(SAME[0]), insert("red is Leo's sofa"))
    for operation in (insert(text), update("#1", text), update("#2", text)):
        after, outcome = memory.apply(operation, 7)
        assert after == memory and outcome.status == "duplicate" and not outcome.ok


@pytest.mark.parametrize(
    ("one", "other"),
    [("it costs 3.5", "it costs 35"), ("-5 degrees", "5 degrees"), ("C", "C++"), ("a b", "ab"), ("no. 5", "no. .5")],
)
def test_what_says_something_else_is_a_write(one, other):
    assert run(flat_memory(), insert(one), insert(other))[1] == ["applied", "applied"]


def test_a_text_without_a_word_says_nothing():
    assert run(flat_memory(), insert("…"), insert("\u200b"), insert("+"))[1] == [
        *["malformed: empty content"] * 2,
        "applied",
    ]


@pytest.mark.parametrize(
    "written",
    [
        (delete("#1"), insert("Tea")),
        (update("#1", "coffee"), update("#1", "tea.")),
        (update("#1", "coffee"), insert("tea")),
        (delete("#1"), update("#2", "tea")),
        (delete("#1"), insert("milk"), update("#3", "tea")),
    ],
)
def test_what_a_step_takes_away_and_writes_again_belongs_to_the_step_that_first_wrote_it(written):
    memory, _ = run(flat_memory(), insert("tea"), insert("bread"))
    for operation in written:
        memory, outcome = memory.apply(operation, 5)
        assert outcome.status == "applied"
    (again,) = (item for item in memory.items if "tea" in item.text.lower())
    assert (again.written_at, again.writers) == (0, (0,))
    assert all(item.written_at in (1, 5) for item in memory.items if item is not again)


def test_what_a_later_step_writes_again_is_its_own():
    memory, _ = run(flat_memory(), insert("tea"), delete("#1"), insert("tea"))
    assert [(item.id, item.written_at, item.writers) for item in memory.items] == [("#2", 2, (2,))]


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
