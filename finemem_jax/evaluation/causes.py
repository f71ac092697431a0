"""Where a wrong answer comes from: construction, retrieval or answering, or unknown where that cannot be told.

For a question, four supports in [0, 1]: of the source (its evidence chunks, or all chunks where none are known), of the
final memory, of the items retrieved, and the score itself. The step of the chain 1 -> source -> memory -> retrieved ->
score that loses most is the cause; of equals the one that is listed first:

| cause          | lost between             | for a question with one short answer                     |
|---|---|---|
| `construction` | source and memory        | the text says it, and no item does                       |
| `retrieval`    | memory and retrieved     | an item holds it, but it was not retrieved               |
| `answering`    | retrieved and the score  | it was retrieved, and the answer is still wrong          |
| `unknown`      | 1 and source             | the text does not say it in the words of the answer      |

A text supports an answer when the answer's normalised words stand in it in a row; for recall metrics the support is
the share of the parts that any of the texts holds, for ROUGE the share of the gold's distinct words. What memory holds
counts as the source's too: a manager may write a date as the answer has it.

Answers that no text says in so many words (yes and no, a date worked out, a summary, text without spaces between its
words) are unknown, but for one case that needs no looking for them: where the evidence is known and memory has no item
that one of its steps wrote, the answer was lost at construction. An item can hold the words by chance, so
`construction` counts are a lower bound and `answering` an upper one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from finemem_jax.env.scoring import KEYWORD_BORDER, PART_BORDER, normalise
from finemem_jax.types import WRITE, Answer, Chunk, MemoryItem, Question, Rollout

WRONG_BELOW = 0.5  # a score below this is a wrong answer; metrics of 0 or 1 have nothing in between
CAUSES = ("construction", "retrieval", "answering", "unknown")
_ANYWHERE = frozenset(("yes", "no", "true", "false"))  # words that stand in any text, whatever was asked


def failures(rollout: Rollout) -> list[str]:
    """One word per final answer, in their order: "" (right), "missing", or one of CAUSES."""
    found: dict[int | None, tuple[Sequence[MemoryItem], list[str]]] = {}  # of the memory that a question was asked of
    causes = []
    for answer in rollout.final_answers:
        after = answer.question.after
        if after not in found:
            memory = rollout.memory_after(after)
            items = memory.items if memory is not None else ()
            found[after] = items, [_padded(item.text) for item in items]
        causes.append(_failure(rollout, answer, *found[after]))
    return causes


def _failure(rollout: Rollout, answer: Answer, items: Sequence[MemoryItem], padded: Sequence[str]) -> str:
    """padded: the items' texts, as `support` takes them."""
    if answer.score is None:
        return "missing"
    if answer.score >= WRONG_BELOW:
        return ""
    if answer.question.metric == "abstention" or answer.question.kind == "abstention":
        return "answering"  # no text holds what is right: nothing was to be found, and something was said
    question = answer.question
    chunks: Sequence[Chunk] = rollout.episode.chunks
    writes = rollout.of(WRITE)
    if question.evidence:
        chunks = [chunk for chunk in chunks if chunk.index in question.evidence]
    if question.evidence and writes:
        about = {turn.index: turn.chunk for turn in rollout.steps}
        writers = {writer for item in items for writer in item.writers or (item.written_at,)}
        if not any(about.get(writer) in question.evidence for writer in writers):
            return "construction"
    in_memory = support(question, padded)
    in_source = max(in_memory, support(question, [_padded(chunk.text) for chunk in chunks]))
    in_memory = in_memory if writes else in_source  # who only searches keeps nothing that could be lost
    in_retrieved = support(question, [_padded(item.text) for item in answer.retrieved])
    lost = (in_source - in_memory, in_memory - in_retrieved, in_retrieved - answer.score, 1 - in_source)
    return CAUSES[lost.index(max(lost))]


def support(question: Question, padded: Sequence[str]) -> float:
    """How much of the gold the texts hold, in [0, 1]. padded: normalised words with a space before, between, after."""
    if question.metric == "not_said":  # what was to be forgotten supports the wrong answer
        return 1.0 - any(_is_held(_padded(answer), padded) for answer in question.answers)
    if "rouge" in question.metric:
        return max((_words_held(answer, padded) for answer in question.answers), default=0.0)
    if re.search("recall|keywords|parts|all_contained", question.metric):
        separator = KEYWORD_BORDER if "keyword" in question.metric else PART_BORDER
        parts = {_padded(part) for answer in question.answers for part in re.split(separator, answer) if part.strip()}
        return sum(_is_held(part, padded) for part in parts) / len(parts) if parts else 0.0
    return float(any(_is_held(_padded(answer), padded) for answer in question.answers if not _stands_anywhere(answer)))


def _stands_anywhere(answer: str) -> bool:
    """Whether to find the answer in a text says nothing: yes or no, the letter of an option."""
    words = normalise(answer)
    return all(word in _ANYWHERE or (len(word) == 1 and word.isascii() and word.isalpha()) for word in words)


def _words_held(answer: str, padded: Sequence[str]) -> float:
    words = set(normalise(answer))
    return sum(_is_held(f" {word} ", padded) for word in words) / len(words) if words else 0.0


def _is_held(part: str, padded: Sequence[str]) -> bool:
    return any(part in text for text in padded)


def _padded(text: str) -> str:
    return f" {' '.join(normalise(text))} "
