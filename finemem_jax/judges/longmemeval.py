"""LongMemEval's judge: yes or no, with an instruction of its own for every type of question.

By `JudgeRequest.kind`: what the answer must hold, what is forgiven (a day more or less in durations; an old value
beside the new one), what a preference is graded by, and for abstention whether it says that there is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.judges import _labels
from finemem_jax.types import JudgeRequest, Messages, Verdict

TASKS = ("answer",)
TOKENS = 0
FIDELITY = (
    "LongMemEval's protocol (types, labels) in our words; a reply counts by whole words, where the authors look for "
    "the letters 'yes' anywhere"
)

_FACT = """\
You get a question, the right answer and the reply of a model. Say yes if the reply holds the right answer, or says \
the same in other words, or holds every step that leads to it. A reply with only a part of what the right answer asks \
for is a no."""
_BY_KIND = {
    "temporal-reasoning": _FACT
    + " Do not punish a number of days, weeks or months that is off by one: 19 days for 18 is a yes.",
    "knowledge-update": """\
You get a question, the right answer and the reply of a model. What the question asks about has changed over time. Say \
yes if the reply gives the latest value, which the right answer holds; earlier values beside it do no harm.""",
    "single-session-preference": """\
You get a question, a description of the reply that this user would like, and the reply of a model. The reply need not \
meet every point of the description: say yes if it recalls and uses what the user has told about themselves rightly.""",
    "abstention": """\
You get a question that cannot be answered, the reason why, and the reply of a model. Say yes if the reply makes out \
that it cannot be answered: that it is not known, not enough is said, or something else was said but not this.""",
}
_END = " Reply with yes or no alone."
_SCORES = {"yes": 1.0, "no": 0.0}


def conversations(request: JudgeRequest) -> list[Messages]:
    gold = {"single-session-preference": "description", "abstention": "reason"}.get(request.kind, "right_answer")
    parts = {"question": request.question, gold: _labels.listed(request.answers), "reply": request.text}
    return [_labels.messages(_BY_KIND.get(request.kind, _FACT) + _END, **parts)]


def verdict(replies: Sequence[str | None], request: JudgeRequest) -> Verdict:
    return _labels.scored(_labels.word_of(replies[0], tuple(_SCORES)), _SCORES)
