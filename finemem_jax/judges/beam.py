"""BEAM's judge: every item of a question's rubric by itself, 0, 0.5 or 1; the score is their mean.

A question without a rubric is graded by its gold answers as the one item.
"""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.judges import _labels
from finemem_jax.types import JudgeRequest, Messages, Verdict

TASKS = ("answer",)
TOKENS = 256
FIDELITY = (
    "BEAM's protocol (each rubric item 0, 0.5 or 1, mean) in our words; event ordering is graded by its rubric too, "
    "where the authors correlate orders"
)

_INSTRUCTIONS = """\
You grade a model's reply to a question by one item of a rubric, and by nothing else. 1: the reply does fully what the \
item asks for. 0.5: it does so in part, or with an inaccuracy. 0: it does not, or does the opposite. Wording and \
order do not matter, nor what the reply says beside it.
First give one sentence of reasons, then the grade as {"score": 0}, {"score": 0.5} or {"score": 1}."""
_ALLOWED = (0.0, 0.5, 1.0)


def conversations(request: JudgeRequest) -> list[Messages]:
    items = request.rubric or (_labels.listed(request.answers),)
    return [
        _labels.messages(_INSTRUCTIONS, question=request.question, rubric_item=item, reply=request.text)
        for item in items
    ]


def verdict(replies: Sequence[str | None], request: JudgeRequest) -> Verdict:
    """One item without a grade leaves the question without a score: the mean of the others is of another rubric."""
    grades = [_labels.number_of(reply, "score", _ALLOWED) for reply in replies]
    found = [grade for grade in grades if grade is not None]
    if len(found) < len(grades) or not grades:
        return Verdict(None)
    return Verdict(sum(found) / len(found), " ".join(f"{grade:g}" for grade in found))
