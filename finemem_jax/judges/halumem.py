"""HaluMem's judge: answers as Correct, Hallucination or Omission; and what a session wrote into memory.

| task | is asked | labels |
|---|---|---|
| `answer` | does the answer say what the gold answer says | Correct, Hallucination, Omission |
| `integrity` | does what was written hold the gold point | 2 wholly, 1 in part, 0 not |
| `accuracy` | is a memory that was written true to dialogue and gold | 2, 1, 0; and whether gold holds all it says |
| `update` | was the change taken over | Correct, Hallucination, Omission, Other |

The label of `accuracy` is the score and "gold" or "beyond": "2 gold". For a request about writing, `question` is the
gold point or the written memory, `answers` what it is held against, `text` the other side; `rubric` the dialogue.
"""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.judges import _labels
from finemem_jax.types import JudgeRequest, Messages, Verdict

TASKS = ("answer", "integrity", "accuracy", "update")
TOKENS = 256
FIDELITY = "HaluMem's protocol (tasks, labels, JSON) in our words, as its licence asks for"

_JSON = "First give one sentence of reasons, then the result as JSON: "
_ANSWER = f"""\
You check the answer that a memory system gave. Correct: it says all that the reference answer says and nothing that \
goes against it. Hallucination: it says something that contradicts the reference, or that nothing supports; also an \
answer where the reference says that it is not known. Omission: it says that it does not know, or leaves out what the \
reference says, without saying anything false.
{_JSON}{{"evaluation_result": "Correct"}}, {{"evaluation_result": "Hallucination"}} or \
{{"evaluation_result": "Omission"}}"""
_INTEGRITY = f"""\
You check what a memory system took down of a talk. You get one fact that it should have taken down, and all that it \
wrote. 2: what it wrote states the whole fact. 1: it states a part of the fact, and nothing false about it. 0: it does \
not state it, or states it falsely.
{_JSON}{{"score": 2}}, {{"score": 1}} or {{"score": 0}}"""
_ACCURACY = f"""\
You check one memory that a memory system wrote of a talk. You get the talk, the facts of it that are known to be \
worth keeping, and the memory. 2: all that the memory says is true by the talk or the facts. 1: a part of it is. 0: \
it is false, or the talk does not say it. Say also whether all that the memory speaks of is among the facts.
{_JSON}{{"accuracy_score": 2, "is_included_in_golden_memories": true}} with a score of 2, 1 or 0, and true or false"""
_UPDATE = f"""\
You check whether a memory system took over a change. You get the fact as it is now, what was known before, and the \
entries that the system finds for it. Correct: an entry states the fact as it is now. Hallucination: an entry speaks \
of the change and states it falsely. Omission: no entry speaks of it, or only of what was known before. Other: none of \
these.
{_JSON}{{"evaluation_result": "Correct"}}, and likewise Hallucination, Omission or Other"""
_LABELS = ("Correct", "Hallucination", "Omission")
_SCORES = {"Correct": 1.0, "Hallucination": 0.0, "Omission": 0.0, "Other": 0.0}
_NONE = "(nothing)"


def conversations(request: JudgeRequest) -> list[Messages]:
    gold, text = _labels.listed(request.answers or (_NONE,)), request.text or _NONE
    if request.task == "integrity":
        return [_labels.messages(_INTEGRITY, fact=request.question, written=text)]
    if request.task == "accuracy":
        talk = "\n".join(request.rubric)
        return [_labels.messages(_ACCURACY, talk=talk, facts=gold, memory=request.question)]
    if request.task == "update":
        return [_labels.messages(_UPDATE, fact=request.question, known_before=gold, entries=text)]
    return [_labels.messages(_ANSWER, question=request.question, reference_answer=gold, answer=request.text)]


def verdict(replies: Sequence[str | None], request: JudgeRequest) -> Verdict:
    (reply,) = replies
    if request.task == "integrity":
        score = _labels.number_of(reply, "score", (0, 1, 2))
        return Verdict(None) if score is None else Verdict(score / 2, f"{score:g}")
    if request.task == "accuracy":
        score = _labels.number_of(reply, "accuracy_score", (0, 1, 2))
        place = _labels.field_of(reply, "is_included_in_golden_memories", ("true", "false"))
        if score is None or not place:
            return Verdict(None)
        return Verdict(score / 2, f"{score:g} {'gold' if place == 'true' else 'beyond'}")
    labels = (*_LABELS, "Other") if request.task == "update" else _LABELS
    return _labels.scored(_labels.field_of(reply, "evaluation_result", labels), _SCORES)
