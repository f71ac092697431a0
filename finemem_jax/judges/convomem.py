"""ConvoMem's judge: RIGHT or WRONG, by an instruction of the question's category (`JudgeRequest.source`)."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.judges import _labels
from finemem_jax.types import JudgeRequest, Messages, Verdict

TASKS = ("answer",)
TOKENS = 0
FIDELITY = (
    "ConvoMem's protocol (RIGHT or WRONG by category) in our words; a reply with both words is no verdict here and "
    "wrong there, one with neither is no verdict here and asked again there"
)

_FACTS = """\
You compare an answer with the right one. It is RIGHT if it states the fact of the right answer, in whatever words and \
with whatever beside it that does not contradict it."""
_BY_CATEGORY = {
    "changing": """\
You compare an answer with the right one. What is asked about has changed in the course of the talks. It is RIGHT only \
if it gives the state after the last change, as the right answer does; an earlier state as the answer is WRONG.""",
    "abstention": """\
The question asks for what was never said. The answer is RIGHT if it makes out that this is not known or was not said, \
and WRONG if it gives a fact in reply, however likely.""",
    "preference": """\
You grade an answer by a rubric, which says what this person likes or needs. It is RIGHT if it takes that into account \
as the rubric asks, and WRONG if it passes over it or goes against it.""",
    "implicit_connection": """\
You grade an answer by a rubric, which says what this person's situation means for the question without the question \
saying so. It is RIGHT if it makes that connection as the rubric asks, WRONG if it answers as if it knew nothing.""",
}
_SEVERAL = " The right answer has several parts: all of them must be there."
_END = " Reply with one word, RIGHT or WRONG."
_RUBRICS = ("preference", "implicit_connection")
_SCORES = {"right": 1.0, "wrong": 0.0}


def conversations(request: JudgeRequest) -> list[Messages]:
    category = _category(request)
    instructions = _BY_CATEGORY.get(category, _FACTS + (_SEVERAL if len(request.answers) > 1 else ""))
    gold = "rubric" if category in _RUBRICS else "right_answer"
    parts = {"question": request.question, gold: _labels.listed(request.answers), "answer": request.text}
    return [_labels.messages(instructions + _END, **parts)]


def _category(request: JudgeRequest) -> str:
    """The category in the name of the data source, or a kind of that name: other benchmarks have abstention too."""
    return next((name for name in _BY_CATEGORY if name in request.source or name == request.kind), "")


def verdict(replies: Sequence[str | None], request: JudgeRequest) -> Verdict:
    return _labels.scored(_labels.word_of(replies[0], tuple(_SCORES)), _SCORES)
