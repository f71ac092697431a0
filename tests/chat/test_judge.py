"""The metric llm_judge: a verdict, or none; never a failure that counts as wrong."""

from __future__ import annotations

import pytest

from finemem_jax.chat.judge import ModelJudge, judge_messages, verdict
from finemem_jax.types import JudgeRequest
from tests.fakes import EchoChat


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("yes", 1.0),
        ("No.", 0.0),
        ("Yes, it knows that.", 1.0),  # the reference reads the "no" in "knows" and says 0
        ("<think>no, wait</think> Yes", 1.0),
        ("<think>yes, bec", None),
        ("certainly", None),
        ("nothing to yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_a_verdict_is_the_first_yes_or_no_outside_the_thinking(reply, expected):
    assert verdict(reply) == expected


def test_the_judge_sees_question_gold_and_answer_and_judges_each():
    requests = [JudgeRequest("who is it?", ("Orlov", "Dr Orlov"), "it is Orlov"), JudgeRequest("q", ("a",), "b")]
    chat = EchoChat(lambda text: "yes" if "it is Orlov" in text else "no")
    judge = ModelJudge(chat)
    futures = judge.submit(requests)
    assert not any(future.done() for future in futures)
    judge.settle()
    assert [future.result() for future in futures] == [1.0, 0.0]
    text = judge_messages(requests[0])[1]["content"]
    assert "who is it?" in text and "- Orlov\n- Dr Orlov" in text and "it is Orlov" in text
