"""A model writes questions about one chunk: the prompt, and how its reply is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from finemem_jax.env.lenient_json import load_entries
from finemem_jax.env.scoring import normalise
from finemem_jax.types import Messages

_FORMAT = (
    "Reply with a JSON list and nothing else, each entry "
    '{"question": "…", "answer": "…"}. No two entries may ask for the same thing.'
)
_ABOUT_FACTS = """\
You write exam questions that show whether somebody remembers a text. Write {count} questions on the passage given. \
Each must be answerable from the passage alone, by one answer of a few words that stands in the passage word for word, \
and must not be answerable by guessing or from general knowledge. Name people, places and things in full, so that a \
question makes sense to somebody who does not see the passage: never speak of "the passage" or "the text". Ask for \
what somebody would want to know later, spread over the whole passage, not for the wording of greetings."""
_ABOUT_LABELS = """\
You write test cases for a classification task. The passage shows texts with their labels. Write {count} new texts \
that no passage shows, each clearly of one of the labels shown; vary the labels. "question" is the new text, "answer" \
its label, written exactly as in the passage."""

_MOST_ANSWER_WORDS = 12
_MOST_QUESTION_WORDS = 80
_POINTS_AT_TEXT = re.compile(
    r"\b(?:this|the|above|given|following)\s++(?:\w++\s++)?(?:passage|text|chunk|excerpt|dialogue)\b"
)


class Candidate(NamedTuple):
    question: str
    answer: str
    lines: tuple[str, ...] = ()  # Question.lines, where it was annotated


class Reading(NamedTuple):
    """What a reply held: usable candidates, and how many entries were not."""

    candidates: list[Candidate]
    unusable: int


def writing_messages(chunk: str, count: int, *, labels: bool) -> Messages:
    """The conversation that asks for `count` questions about a chunk (new texts to label, for classification)."""
    task = (_ABOUT_LABELS if labels else _ABOUT_FACTS).format(count=count)
    return (
        {"role": "system", "content": f"{task}\n\n{_FORMAT}"},
        {"role": "user", "content": f"<passage>\n{chunk}\n</passage>\n\nWrite {count} entries."},
    )


def read_candidates(reply: str, *, labels: bool) -> Reading | None:
    """The candidates in a reply, in order; None where it holds no list. Any text is safe."""
    if "[" not in reply:
        return None
    entries, unusable = load_entries(reply)
    candidates = []
    for entry in entries:
        candidate = _candidate(entry, labels)
        if candidate is None:
            unusable += 1
        else:
            candidates.append(candidate)
    return Reading(candidates, unusable)


def _candidate(entry: object, labels: bool) -> Candidate | None:
    """The entry, unless a question made of it would be void: no text, too long, or tied to a text nobody sees."""
    if not isinstance(entry, dict):
        return None
    question, answer = entry.get("question"), entry.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(question, str) or not isinstance(answer, str):
        return None
    question, answer = " ".join(question.split()), " ".join(answer.split())
    asked, gold = normalise(question), normalise(answer)
    if not asked or not gold or len(asked) > _MOST_QUESTION_WORDS or len(gold) > _MOST_ANSWER_WORDS:
        return None
    if not labels and (_POINTS_AT_TEXT.search(question.lower()) or _holds(asked, gold)):
        return None  # the answer stands in the question, or the question only makes sense beside the text
    return Candidate(question, answer)


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    return f" {' '.join(part)} " in f" {' '.join(words)} "


def is_repeated(candidate: Candidate, others: Sequence[Candidate]) -> bool:
    """Whether the question asks what one of `others` asks: four words in five are the same."""
    words = set(normalise(candidate.question))
    return any(
        len(words & said) >= 0.8 * len(words | said) for said in (set(normalise(other.question)) for other in others)
    )
