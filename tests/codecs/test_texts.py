"""The codecs whose operation is the text itself: it is read back as it was written, and what was cut off is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finemem_jax.config import plugins, resolve
from finemem_jax.env import operations
from finemem_jax.env.marks import CUT
from finemem_jax.env.thoughts import without_thoughts
from finemem_jax.memory import flat, overwrite
from finemem_jax.types import Operation
from tests import growth

TEXTS = [name for name in plugins("finemem_jax.codecs") if getattr(resolve(operations.CODECS, name), "IS_TEXT", False)]
PIECES = ["<think>", "</think>", "Maya's dentist", "\n", " ", "<tool_call>", "\\u003c", "é", CUT]


def read(text, codec, **settings):
    return [
        (o.arguments.get("content"), o.error) for o in operations.parse(text, overwrite.SPECS, codec=codec, **settings)
    ]


def test_there_are_two():
    assert {"raw", "think"} <= set(TEXTS)


@pytest.mark.parametrize("codec", TEXTS)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)))
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_back(codec, text):
    text = without_thoughts(text).strip()
    expected = [Operation("memory_replace", {"content": text})]
    said = operations.emit(expected, codec, overwrite.SPECS)
    found = list(operations.parse(said, overwrite.SPECS, codec=codec))
    assert found == expected if text else not [call for call in found if not call.error]


@pytest.mark.parametrize("codec", TEXTS)
@given(
    text=st.lists(st.sampled_from(PIECES), max_size=12).map("".join), is_cut=st.booleans(), is_thinking=st.booleans()
)
@settings(max_examples=200, deadline=None)
def test_any_text_is_at_most_one_write_without_a_thought_in_it(codec, text, is_cut, is_thinking):
    found = read(text, codec, is_cut=is_cut, is_thinking=is_thinking)
    assert len(found) <= 1
    assert all("<think>" not in content and "</think>" not in content for content, error in found if not error)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Maya's dentist is Orlov.\n", [("Maya's dentist is Orlov.", "")]),
        ("<think>let me see</think>\nOrlov", [("Orlov", "")]),
        ("<think>let me see", []),
        ("", []),
    ],
)
def test_the_raw_text_is_all_but_its_thoughts(text, found):
    assert read(text, "raw") == found


def test_a_raw_text_that_was_cut_off_says_so_and_ends_with_a_whole_word():
    assert read("Maya's dentist is Orl", "raw", is_cut=True) == [(f"Maya's dentist is {CUT}", "")]


@pytest.mark.parametrize(
    ("text", "settings", "found"),
    [
        ("<think>one</think> and <think>\ntwo\n</think> said", {}, [("two", "")]),
        ("two</think> said", {"is_thinking": True}, [("two", "")]),
        ("<think>two</think>", {"is_thinking": True}, [("two", "")]),
        ("<think>one</think><think>tw", {"is_cut": True}, [(None, "malformed: the last <think> is not closed")]),
        ("<think> </think>", {}, [(None, "malformed: the last thought is empty")]),
        ("no thought at all", {}, []),
    ],
)
def test_the_last_thought_is_the_state(text, settings, found):
    assert read(text, "think", **settings) == found


@pytest.mark.parametrize("codec", TEXTS)
@pytest.mark.parametrize("unit", ["<think>", "</think>", "<think></think>", "word ", "\n", CUT])
def test_the_time_of_reading_grows_with_the_text(codec, unit):
    def parse(times):
        operations.parse(unit * times, overwrite.SPECS, codec=codec, is_cut=True)

    assert growth.times_longer(parse, 1 << 14) < growth.LINEAR


@pytest.mark.parametrize("codec", TEXTS)
def test_they_fit_a_memory_of_one_tool_alone(codec):
    assert not operations.unfit(codec, overwrite.SPECS)
    assert "config.memory.name=overwrite" in operations.unfit(codec, flat.SPECS)
