"""What a thinking model says outside of its thoughts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.env.marks import marks_in, without_marks
from finemem_jax.env.thoughts import CLOSE, OPEN, is_thinking, without_thoughts


@pytest.mark.parametrize(
    ("text", "outside", "is_open"),
    [
        ("Paris", "Paris", False),
        ("<think>Rome?</think>Paris", "\nParis", False),
        ("Rome?</think>Paris", "Paris", False),  # the template opened it
        ("Paris<think>or Rome", "Paris", True),
        ("<think>Rome", "", True),
        ("a<think>b</think>c<think>d</think>e", "a\nc\ne", False),
        ("<think>a<think>b</think>c", "\nc", False),
        ("a</think>b</think>c", "c", False),  # a second closing tag alone: what it closes is a thought too
    ],
)
def test_only_what_stands_outside_is_left(text, outside, is_open):
    assert (without_thoughts(text), is_thinking(text)) == (outside, is_open)


@given(text=st.text(max_size=30))
def test_a_text_without_thoughts_stays_as_it_is(text):
    assert without_thoughts(text) == text
    assert without_thoughts(f"{OPEN}{text}{CLOSE}").strip() == ""


@given(pieces=st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "x"])))
def test_marks_that_are_escaped_are_no_marks(pieces):
    text = "".join(pieces)
    assert list(marks_in(without_marks(text, (OPEN, CLOSE)), (OPEN, CLOSE))) == []
    assert without_marks(text, (OPEN, CLOSE)).replace("\\u003c", "<") == text
