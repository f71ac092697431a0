"""The metric llm_judge: a verdict, or none; never a failure that counts as wrong."""

from __future__ import annotations

import pytest

from finemem_jax.chat.judge import ModelJudge
from finemem_jax.config import resolve
from finemem_jax.types import JudgeRequest
from tests.fakes import EchoChat

ours = resolve("finemem_jax.judges", "ours")
REQUEST = JudgeRequest("who is it?", ("Orlov", "Dr Orlov"), "it is Orlov")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("yes", 1.0),
        ("No.", 0.0),
        ("Yes, it knows that.", 1.0),  # the reference reads the "no" in "knows" and says 0
        ("<think>no, wait</think> Yes", 1.0),
        ("<think>yes, bec", None),
        ("yes and no", None),
        ("certainly", None),
        ("nothing to yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_a_verdict_is_the_one_word_of_yes_and_no_outside_the_thinking(reply, expected):
    assert ours.verdict([reply], REQUEST).score == expected


def test_the_judge_sees_question_gold_and_answer_and_judges_each():
    requests = [REQUEST, JudgeRequest("q", ("a",), "b")]
    chat = EchoChat(lambda text: "yes" if "it is Orlov" in text else "no")
    judge = ModelJudge(chat)
    futures = judge.submit(requests)
    assert not any(future.done() for future in futures)
    judge.settle()
    assert [future.result() for future in futures] == [1.0, 0.0]
    text = ours.conversations(requests[0])[0][1]["content"]
    assert "who is it?" in text and "- Orlov\n- Dr Orlov" in text and "it is Orlov" in text
