"""Where a wrong answer comes from: construction, retrieval or answering.

For a question, three supports in [0, 1]: of the final memory, of the items retrieved, and the score itself. The step
of the chain 1 -> memory -> retrieved -> score that loses most is the cause, the earlier one of equals:

| cause          | lost between             | for a question with one short answer                     |
|---|---|---|
| `construction` | 1 and memory             | no item holds the answer                                 |
| `retrieval`    | memory and retrieved     | an item holds it, but it was not retrieved               |
| `answering`    | retrieved and the score  | it was retrieved, and the answer is still wrong          |

A text supports an answer when the answer's normalised words stand in it in a row; for recall metrics the support is
the share of the parts that any of the texts holds, for ROUGE the share of the gold's distinct words. An item can hold
the words by chance, so `construction` counts are a lower bound and `answering` an upper one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from finemem_jax.env.scoring import normalise
from finemem_jax.types import Answer, Question, Rollout

WRONG_BELOW = 0.5  # a score below this is a wrong answer; metrics of 0 or 1 have nothing in between
CAUSES = ("construction", "retrieval", "answering")


def failures(rollout: Rollout) -> list[str]:
    """One word per final answer, in their order: "" (right), "missing", or one of CAUSES."""
    items = rollout.steps[-1].memory_after.items if rollout.steps else ()
    memory = [_padded(item.text) for item in items]
    return [_failure(answer, memory) for answer in rollout.answers if answer.step is None]


def _failure(answer: Answer, memory: Sequence[str]) -> str:
    if answer.score is None:
        return "missing"
    if answer.score >= WRONG_BELOW:
        return ""
    in_memory = support(answer.question, memory)
    in_retrieved = support(answer.question, [_padded(item.text) for item in answer.retrieved])
    lost = (1 - in_memory, in_memory - in_retrieved, in_retrieved - answer.score)
    return CAUSES[lost.index(max(lost))]


def support(question: Question, padded: Sequence[str]) -> float:
    """How much of the gold the texts hold, in [0, 1]. padded: normalised words with a space before, between, after."""
    if "rouge" in question.metric:
        return max((_words_held(answer, padded) for answer in question.answers), default=0.0)
    if re.search("recall|keywords|parts|all_contained", question.metric):
        separator = r"[,;\n]" if "keyword" in question.metric else r"[;\n]"
        parts = {_padded(part) for answer in question.answers for part in re.split(separator, answer) if part.strip()}
        return sum(_is_held(part, padded) for part in parts) / len(parts) if parts else 0.0
    return float(any(_is_held(_padded(answer), padded) for answer in question.answers))


def _words_held(answer: str, padded: Sequence[str]) -> float:
    words = set(normalise(answer))
    return sum(_is_held(f" {word} ", padded) for word in words) / len(words) if words else 0.0


def _is_held(part: str, padded: Sequence[str]) -> bool:
    return any(part in text for text in padded)


def _padded(text: str) -> str:
    return f" {' '.join(normalise(text))} "
