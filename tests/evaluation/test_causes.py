"""Where a wrong answer comes from, on memories made for each case."""

from __future__ import annotations

import dataclasses

import pytest

from finemem_jax.env.scoring import normalise
from finemem_jax.evaluation.causes import failures, support
from finemem_jax.types import Answer, Question, Retrieved
from tests import fakes


def answer(question, retrieved, score):
    items = tuple(Retrieved(f"#{i}", 0, (0,), text, 1.0) for i, text in enumerate(retrieved))
    return Answer(question, items, "whatever", score)


ORLOV = Question("who is it?", ("Orlov",), "exact_match")
LIST = Question("what was bought?", ("milk, bread, tea, figs",), "keyword_recall")
GIST = Question("summarise", ("the cat sat down",), "rouge_l")


YES = Question("is Orlov the dentist?", ("Yes",), "exact_match")
OPTION = Question("which one is it?", ("B",), "exact_match")
DATE = Question("when was it?", ("7 May 2023",))
CJK = Question("田中さんは医者ですか", ("はい",))


def played(source, memory, answered, written_at=0):
    """An episode of a chunk per text of `source`, whose memory holds `memory`, all written at one step."""
    stream = [[]] * len(source)
    stream[written_at] = memory
    rollout = fakes.rollout(stream, answers=[answered])
    return dataclasses.replace(rollout, episode=fakes.episode(source))


@pytest.mark.parametrize(
    ("source", "memory", "question", "retrieved", "score", "cause"),
    [
        ("it is Orlov", ["Maya likes tea"], ORLOV, ["Maya likes tea"], 0.0, "construction"),
        ("", ["it is ORLOV!", "tea"], ORLOV, ["tea"], 0.0, "retrieval"),  # what memory holds, the source said
        ("", ["it is Orlov"], ORLOV, ["it is Orlov"], 0.0, "answering"),
        ("", ["it is Orlov"], ORLOV, ["it is Orlov"], 1.0, ""),
        ("it is Orlov", [], ORLOV, [], 0.0, "construction"),
        ("it is Orlov", ["it is Orlov"], ORLOV, [], None, "missing"),
        ("Orlov", ["Orlovsky"], ORLOV, ["Orlovsky"], 0.0, "construction"),  # whole words
        ("milk bread tea figs", ["milk", "no more"], LIST, ["milk"], 0.25, "construction"),  # three of four parts
        ("", ["milk and bread", "tea with figs"], LIST, ["milk and bread"], 0.25, "retrieval"),
        ("", ["milk bread tea figs"], LIST, ["milk bread tea figs"], 0.25, "answering"),
        ("", ["milk bread tea"], LIST, ["milk bread tea"], 0.75, ""),  # more than half right is not wrong
        ("the cat sat down", ["a dog ran"], GIST, ["a dog ran"], 0.1, "construction"),
        ("the cat sat down", ["the cat sat"], GIST, ["the cat sat"], 0.1, "answering"),
        (
            "a hat sat down",
            ["a dog ran"],
            GIST,
            ["a dog ran"],
            0.1,
            "construction",
        ),  # two of its three words lost there
        ("no cat was seen", ["no cat was seen"], GIST, ["no cat was seen"], 0.1, "unknown"),  # one of three in the text
        ("yes, she is happy. Orlov is her dentist", ["yes, he"], YES, ["yes, he"], 0.0, "unknown"),
        ("plan B", ["plan B"], OPTION, ["plan B"], 0.0, "unknown"),
        ("it was last Sunday", ["it was last Sunday"], DATE, ["it was last Sunday"], 0.0, "unknown"),
        ("it was last Sunday", ["it was on 7 May 2023"], DATE, [], 0.0, "retrieval"),  # memory worked it out
        ("医者は田中さんです", ["医者は田中さんです"], CJK, ["医者は田中さんです"], 0.0, "unknown"),
        ("", [], ORLOV, [], 0.0, "unknown"),
    ],
)
def test_every_wrong_answer_has_one_cause(source, memory, question, retrieved, score, cause):
    assert failures(played([source], memory, answer(question, retrieved, score))) == [cause]


@pytest.mark.parametrize(
    ("source", "memory", "written_at", "cause"),
    [
        (["yes", "it rained"], ["it rained"], 1, "construction"),  # no item is of chunk 0, where the answer is
        (["yes", "it rained"], ["she said so"], 0, "unknown"),  # one is; whether it holds the answer, nobody can say
        (["it is not", "Orlov came"], ["Orlov came"], 1, "construction"),
    ],
)
def test_the_evidence_says_what_the_words_cannot(source, memory, written_at, cause):
    asked = dataclasses.replace(YES, evidence=(0,))
    assert failures(played(source, memory, answer(asked, memory, 0.0), written_at)) == [cause]


def test_the_words_are_looked_for_in_the_evidence_not_anywhere():
    asked = dataclasses.replace(ORLOV, evidence=(0,))
    elsewhere = played(["her dentist", "Orlov sells fish"], ["her dentist"], answer(asked, ["her dentist"], 0.0))
    assert failures(elsewhere) == ["unknown"]
    asked = dataclasses.replace(ORLOV, evidence=())
    elsewhere = played(["her dentist", "Orlov sells fish"], ["her dentist"], answer(asked, ["her dentist"], 0.0))
    assert failures(elsewhere) == ["construction"]


@pytest.mark.parametrize("question", [ORLOV, LIST, GIST, YES, OPTION, DATE, CJK])
def test_with_the_whole_text_in_memory_nothing_was_lost_at_construction(question):
    text = "it is Orlov; yes; B; milk, bread, tea; the cat; 田中さん; last Sunday"
    for evidence in ((), (0,)):
        asked = dataclasses.replace(question, evidence=evidence)
        assert failures(played([text], [text], answer(asked, [text], 0.0))) != ["construction"]


def test_only_final_answers_are_attributed_in_their_order():
    chunk_answer = Answer(ORLOV, (), "", 0.0, chunk=0)
    rollout = fakes.rollout([["it is Orlov"]], answers=[chunk_answer, answer(ORLOV, [], 0.0), answer(ORLOV, [], 1.0)])
    assert failures(rollout) == ["retrieval", ""]


def test_support_is_a_share_for_parts_and_all_or_nothing_for_one_answer():
    assert support(LIST, [" milk and tea "]) == 0.5
    assert support(ORLOV, [" it is orlov "]) == 1.0 and support(ORLOV, [" it is "]) == 0.0


@pytest.mark.parametrize(
    ("gold", "texts", "share"),
    [
        ("the cat sat down", ["a cat, and how it sat"], 2 / 3),  # articles are no words here
        ("the cat sat down", ["the cat", "sat down"], 1.0),  # over several texts
        ("the cat sat down", [], 0.0),
        ("", ["the cat"], 0.0),  # no words: nothing can be held
    ],
)
def test_the_support_of_a_summary_is_the_share_of_its_words_that_the_texts_hold(gold, texts, share):
    question = Question("summarise", (gold,), "rouge_l")
    assert support(question, [f" {' '.join(normalise(text))} " for text in texts]) == pytest.approx(share)
