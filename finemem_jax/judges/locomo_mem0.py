"""The generous judge that memory systems report on LoCoMo: CORRECT or WRONG, in JSON, behind a sentence of reasons."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.judges import _labels
from finemem_jax.types import JudgeRequest, Messages, Verdict

TASKS = ("answer",)
TOKENS = 256
FIDELITY = (
    "Mem0's LoCoMo protocol (generous, CORRECT or WRONG in JSON) in our words; theirs asks no adversarial questions: "
    "our instruction for those is our own"
)

_INSTRUCTIONS = """\
You label the answer to a question about earlier talks of two people as CORRECT or WRONG. You get the question, a gold \
answer, mostly a few words, and the generated answer, which may be much longer. Be generous: it is CORRECT as long as \
it touches on the same topic as the gold answer. For questions about time, a date or a span that means the same as the \
gold one is CORRECT, whatever its form: May 7th for 7 May, and "last Tuesday" or "next month" where that is the day or \
month of the gold answer.
First give one sentence of reasons, then the label as {"label": "CORRECT"} or {"label": "WRONG"}. Never write both."""
_ABSTENTION = """\
You label the answer to a question about earlier talks of two people as CORRECT or WRONG. The question asks for what \
was never said. It is CORRECT to make out that this is not known or was not said, and WRONG to give an answer.
First give one sentence of reasons, then the label as {"label": "CORRECT"} or {"label": "WRONG"}. Never write both."""
_SCORES = {"correct": 1.0, "wrong": 0.0}


def conversations(request: JudgeRequest) -> list[Messages]:
    instructions = _ABSTENTION if request.kind == "abstention" else _INSTRUCTIONS
    gold = _labels.listed(request.answers)
    return [_labels.messages(instructions, question=request.question, gold_answer=gold, generated_answer=request.text)]


def verdict(replies: Sequence[str | None], request: JudgeRequest) -> Verdict:
    return _labels.scored(_labels.field_of(replies[0], "label", tuple(_SCORES)), _SCORES)
