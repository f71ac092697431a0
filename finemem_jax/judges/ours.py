"""Our own judge: yes or no against the reference answers, in a few words, for a judge of any size."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.judges import _labels
from finemem_jax.types import JudgeRequest, Messages, Verdict

TASKS = ("answer", "write")
TOKENS = 0
FIDELITY = "finemem's own instructions; scores beside published ones need their authors' judge"

INSTRUCTIONS = """\
You check answers. You get a question, the reference answers and an answer. The answer is right if it says what one of \
the reference answers says, in whatever words; further true details do not matter, a contradiction does. An answer \
that says it does not know is wrong, unless a reference answer says the same. A reference answer may describe what a \
good answer is like, or say what else is acceptable: then the answer is right if it fits that. Reply with yes or no \
alone."""

_SCORES = {"yes": 1.0, "no": 0.0}


def conversations(request: JudgeRequest) -> list[Messages]:
    gold = "\n".join(f"- {answer}" for answer in request.answers)
    user = f"Question: {request.question}\n\nReference answers:\n{gold}\n\nAnswer: {request.text}\n\nIs it right?"
    return [({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": user})]


def verdict(replies: Sequence[str | None], request: JudgeRequest) -> Verdict:
    return _labels.scored(_labels.word_of(replies[0], tuple(_SCORES)), _SCORES)
