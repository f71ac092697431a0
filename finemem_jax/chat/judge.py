"""The metric llm_judge: a frozen model compares an answer with the gold answers.

The verdict is the first word of the reply that is "yes" or "no", so "Yes, it knows" is a yes. A reply without either
is no verdict, and the answer is missing, not wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future

from finemem_jax.env.thoughts import without_thoughts
from finemem_jax.types import Chat, Judge, JudgeRequest, Messages, Reply

INSTRUCTIONS = """\
You check answers. You get a question, the reference answers and an answer. The answer is right if it says what one of \
the reference answers says, in whatever words; further true details do not matter, a contradiction does. An answer \
that says it does not know is wrong, unless a reference answer says the same. A reference answer may describe what a \
good answer is like, or say what else is acceptable: then the answer is right if it fits that. Reply with yes or no \
alone."""

_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class ModelJudge(Judge):
    def __init__(self, chat: Chat):
        self.chat = chat

    def submit(self, requests: Sequence[JudgeRequest]) -> list[Future[float | None]]:
        asked = self.chat.submit([judge_messages(request) for request in requests])
        return [_verdict_of(future) for future in asked]

    def settle(self) -> None:
        self.chat.settle()


def judge_messages(request: JudgeRequest) -> Messages:
    """The conversation that judges one answer. The instructions come first, for a server's prefix cache."""
    gold = "\n".join(f"- {answer}" for answer in request.answers)
    user = f"Question: {request.question}\n\nReference answers:\n{gold}\n\nAnswer: {request.text}\n\nIs it right?"
    return ({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": user})


def verdict(text: str | None) -> float | None:
    """1.0 for yes, 0.0 for no, None where the judge did not say."""
    found = _VERDICT.search(without_thoughts(text or "").strip())
    return None if found is None else float(found.group().lower() == "yes")


def _verdict_of(asked: Future[Reply]) -> Future[float | None]:
    future: Future[float | None] = Future()

    def read(done: Future[Reply]) -> None:
        error = done.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(verdict(done.result().text))

    asked.add_done_callback(read)
    return future
