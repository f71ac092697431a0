"""One text that is rewritten: what it replaces, where it is cut, and how that is told."""

from __future__ import annotations

import pytest

from finemem_jax.config import MemoryConfig
from finemem_jax.env.marks import CUT, cut_off
from finemem_jax.memory import overwrite
from finemem_jax.types import Operation
from tests import fakes


def memory(most=8, count=fakes.count_words):
    return overwrite.create(MemoryConfig(max_tokens=most, max_item_tokens=1), count)


def replaced(before, text, step=0):
    return before.apply(Operation("memory_replace", {"content": text}), step)


def test_each_text_replaces_the_one_before_and_is_one_item():
    one, outcome = replaced(memory(), " Maya's dentist is Orlov \n")
    assert (outcome.status, outcome.verb, outcome.item) == ("applied", "replace", "#1")
    two, _ = replaced(one, "Leo has a red sofa", 3)
    (item,) = two.items
    assert (item.id, item.text, item.written_at, item.writers) == ("#1", "Leo has a red sofa", 3, (0, 3))
    assert one.items[0].text == "Maya's dentist is Orlov" and two.tokens() == 5


def test_a_text_that_says_the_same_is_no_write():
    one, _ = replaced(memory(), "Maya's dentist is Orlov")
    same, outcome = replaced(one, "maya's  dentist is Orlov.", 4)
    assert same is one and (outcome.ok, outcome.verb) == (True, "skip")


@pytest.mark.parametrize("text", ["", " ", "…"])
def test_a_text_without_a_word_leaves_memory_as_it_is(text):
    one, _ = replaced(memory(), "Maya's dentist is Orlov")
    after, outcome = replaced(one, text, 1)
    assert after is one and not outcome.ok and outcome.status == "malformed: empty content"


def test_what_is_too_long_is_cut_at_a_word_and_says_so():
    after, outcome = replaced(memory(8), " ".join(f"word{i}" for i in range(100)))
    assert after.items[0].text == f"word0 word1 word2 word3 word4 {CUT}" and outcome.ok  # the mark is three words
    assert after.tokens() == 8
    whole, _ = replaced(memory(8), " ".join(f"word{i}" for i in range(8)))
    assert whole.items[0].text.endswith("word7")


def test_a_script_without_spaces_is_cut_at_a_character():
    after, _ = replaced(memory(20, len), "記憶" * 50)
    assert after.items[0].text == f"記憶記憶記 {CUT}" and after.tokens() == 20


def test_a_memory_without_room_for_a_word_and_the_mark_refuses():
    after, outcome = replaced(memory(2), "one two three")
    assert after.items == () and (outcome.status, outcome.ok) == ("over limit", False)


def test_cutting_asks_for_few_counts():
    asked = []

    def count(text):
        asked.append(len(text))
        return len(text.split())

    replaced(memory(100, count), "word " * 10_000)
    assert len(asked) < 40


@pytest.mark.parametrize(
    ("text", "cut"),
    [("Maya's dentist is Orl", "Maya's dentist is"), ("Maya", "May"), (f"a b {CUT}", "a"), ("", ""), ("a\nb", "a")],
)
def test_a_text_cut_off_loses_its_last_word(text, cut):
    assert cut_off(text) == f"{cut} {CUT}".strip()
