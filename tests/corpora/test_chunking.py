"""Cutting text to a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.corpora import _chunking, _sessions


def words(text):
    return len(text.split())


def pieces(text, budget, count=words):
    return [text[span.start : span.end] for span in _chunking.split_text(text, budget, count)]


@pytest.mark.parametrize(
    ("text", "budget", "expected"),
    [
        ("a b\n\nc d", 9, ["a b\n\nc d"]),
        ("a b\n\nc d", 3, ["a b", "c d"]),
        ("a b\n\nc\n\nd", 3, ["a b\n\nc", "d"]),
        ("a b\nc d", 2, ["a b", "c d"]),
        ("A b. C d! E f?", 4, ["A b. C d!", "E f?"]),
        ("a b c", 2, ["a b", "c"]),
        ("  \n ", 2, []),
    ],
)
def test_text_is_cut_at_the_coarsest_border_that_fits(text, budget, expected):
    assert pieces(text, budget) == expected


def test_a_word_over_the_budget_is_cut():
    assert pieces("abcdefgh", 3, len) == ["ab", "cd", "ef", "gh"]


@given(st.text(alphabet="ab .\n", max_size=60), st.integers(1, 6))
def test_pieces_keep_to_the_budget_and_lose_only_white_space(text, budget):
    found = pieces(text, budget, len)
    assert all(0 < len(piece) <= budget for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_pieces_are_packed_in_order():
    assert _chunking.pack(["a b", "c", "d e f g", "h"], 3, words) == [[0, 1], [2], [3]]
    assert _chunking.pack([], 3, words) == []


def test_every_part_of_a_session_has_its_date_and_keeps_to_the_budget():
    turns = [("Ann", "one two"), ("Bo", "three\nfour five"), ("Ann", "six seven eight nine ten eleven twelve")]
    parts = _sessions.split_session("1 May", turns, 9, words)
    assert all(part.text.startswith("[Dialogue at timestamp 1 May]\n") and words(part.text) <= 9 for part in parts)
    assert [part.turns for part in parts] == [(0,), (1,), (2,), (2,)]
    assert parts[1].text.endswith("\n<Bo>three four five")
