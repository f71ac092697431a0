"""The flat memory: operations, limits, and what must hold after any sequence of operations."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.config import MemoryConfig
from finemem_jax.memory._substance import substance
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


class Slow:
    """The rules of a flat memory written down plainly: every text is compared with every item."""

    def __init__(self, cfg):
        self.cfg, self.items, self.found, self.step, self.next = cfg, [], [], None, 1

    def apply(self, operation, step):
        """Its status."""
        content, target = operation.arguments.get("content", ""), operation.arguments.get("id", "")
        old = next((item for item in self.items if item[0] == target), None)
        if operation.name == "memory_skip":
            return "skipped"
        if operation.name != "memory_insert" and old is None:
            return "unknown id"
        found = self.found if step == self.step else list(self.items)
        after = [item for item in self.items if item is not old]
        number = self.next
        if operation.name != "memory_delete":
            said = substance(content)
            if not said:
                return "malformed: empty content"
            if any(substance(text) == said for _, text, _ in self.items):
                return "duplicate"
            if count_words(content) > self.cfg.max_item_tokens:
                return "over limit"
            same = [writers for _, text, writers in found if substance(text) == said]
            own = [] if old is None else old[2]
            writers = same[0] if same else own if own and own[-1] == step else [*own, step]
            item = (f"#{number}" if old is None else old[0], content, writers)
            number += old is None
            after = [*after, item] if old is None else [item if other is old else other for other in self.items]
            while (
                len(after) > self.cfg.max_items or sum(count_words(text) for _, text, _ in after) > self.cfg.max_tokens
            ):
                victims = [other for other in after if other is not item]
                if self.cfg.overflow == "refuse" or not victims:
                    return "over limit"
                after.remove(min(victims, key=lambda other: other[2][-1]))
        self.items, self.found, self.step, self.next = after, found, step, number
        return "applied"


TEXTS = st.lists(st.sampled_from(["a", "A", "b.", "b", "c", "é", "e\u0301", "\u200b", "…"]), max_size=4).map(" ".join)


@given(
    st.lists(
        st.tuples(
            st.one_of(
                TEXTS.map(insert), st.builds(update, ids, TEXTS), ids.map(delete), st.just(Operation("memory_skip"))
            ),
            st.integers(0, 1),
        ),
        max_size=40,
    ),
    st.sampled_from(["refuse", "evict_oldest"]),
    st.integers(2, 6),
)
def test_a_memory_is_what_comparing_every_text_with_every_item_makes_it(sequence, overflow, max_items):
    cfg = MemoryConfig(max_items=max_items, max_tokens=9, max_item_tokens=3, overflow=overflow)
    memory, slow, step = flat_memory(cfg), Slow(cfg), 0
    for operation, later in sequence:
        step += later
        memory, outcome = memory.apply(operation, step)
        assert outcome.status == slow.apply(operation, step)
        assert [(i.id, i.text, list(i.writers)) for i in memory.items] == slow.items


def calls_of(action, *arguments) -> int:
    """How many Python functions an action runs."""
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        action(*arguments)
    finally:
        sys.setprofile(None)
    return count


def test_a_write_is_not_compared_with_every_item():
    cfg = MemoryConfig(max_items=10**6, max_tokens=10**6)
    memories = [run(flat_memory(cfg), *(insert(f"fact number {i}") for i in range(size)))[0] for size in (3, 300)]
    for operation in (insert("another fact"), insert("Fact  number 1."), update("#1", "fact number 2")):
        few, many = (calls_of(memory.apply, operation, 1000) for memory in memories)
        assert few == many


def test_a_memory_that_comes_from_another_process_knows_what_it_holds():
    memory, _ = run(flat_memory(), *(insert(f"fact {i}") for i in range(100)))
    code = """if True:
        import pickle, sys
        memory = pickle.load(sys.stdin.buffer)
        print([item.text for item in memory.items if not memory.said.find(item.text)])
    """
    env = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(memory), capture_output=True, env=env)
    assert done.stdout == b"[]\n", done.stderr
