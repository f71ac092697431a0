"""Where a wrong answer comes from, on memories made for each case."""

from __future__ import annotations

import pytest

from finemem_jax.evaluation.causes import failures, support
from finemem_jax.types import Answer, Question, Retrieved
from tests import fakes


def answer(question, retrieved, score):
    items = tuple(Retrieved(f"#{i}", 0, (0,), text, 1.0) for i, text in enumerate(retrieved))
    return Answer(question, items, "whatever", score)


ORLOV = Question("who is it?", ("Orlov",), "exact_match")
LIST = Question("what was bought?", ("milk, bread, tea, figs",), "keyword_recall")
GIST = Question("summarise", ("the cat sat down",), "rouge_l")


@pytest.mark.parametrize(
    ("memory", "question", "retrieved", "score", "cause"),
    [
        (["Maya likes tea"], ORLOV, ["Maya likes tea"], 0.0, "construction"),
        (["it is ORLOV!", "tea"], ORLOV, ["tea"], 0.0, "retrieval"),
        (["it is Orlov"], ORLOV, ["it is Orlov"], 0.0, "answering"),
        (["it is Orlov"], ORLOV, ["it is Orlov"], 1.0, ""),
        ([], ORLOV, [], 0.0, "construction"),
        (["it is Orlov"], ORLOV, [], None, "missing"),
        (["Orlovsky"], ORLOV, ["Orlovsky"], 0.0, "construction"),  # whole words
        (["milk", "no more"], LIST, ["milk"], 0.25, "construction"),  # three of four parts were never written
        (["milk and bread", "tea with figs"], LIST, ["milk and bread"], 0.25, "retrieval"),
        (["milk bread tea figs"], LIST, ["milk bread tea figs"], 0.25, "answering"),
        (["milk bread tea"], LIST, ["milk bread tea"], 0.75, ""),  # more than half right is not wrong
        (["a dog ran"], GIST, ["a dog ran"], 0.1, "construction"),
        (["the cat sat"], GIST, ["the cat sat"], 0.1, "answering"),
    ],
)
def test_every_wrong_answer_has_one_cause(memory, question, retrieved, score, cause):
    rollout = fakes.rollout([memory], answers=[answer(question, retrieved, score)])
    assert failures(rollout) == [cause]


def test_only_final_answers_are_attributed_in_their_order():
    chunk_answer = Answer(ORLOV, (), "", 0.0, step=0)
    rollout = fakes.rollout([["it is Orlov"]], answers=[chunk_answer, answer(ORLOV, [], 0.0), answer(ORLOV, [], 1.0)])
    assert failures(rollout) == ["retrieval", ""]


def test_support_is_a_share_for_parts_and_all_or_nothing_for_one_answer():
    assert support(LIST, [" milk and tea "]) == 0.5
    assert support(ORLOV, [" it is orlov "]) == 1.0 and support(ORLOV, [" it is "]) == 0.0
