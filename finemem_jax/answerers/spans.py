"""An answerer without a model that reads dated notes: it types the question, and picks a time or a span of a sentence.

    [8 May 2023] Caroline: I went to a support group yesterday.      an item

- "When …?" is answered by what the sentence that shares most words with the question says of its time. "yesterday" and
  its like are resolved with the date of the note; where nothing is said, that date is the answer.
- Everything else is answered by the span of at most a dozen words that scores best, over the sentences of all retrieved
  items: a sum of feature weights (`_span_features.py`), fitted on LoCoMo conversations by `launch/fit_spans.py`.

What it can do: answers that stand in one sentence in few words, and days, months and years that follow from a date and
"last Friday". What it cannot do: join two items, count, infer, answer yes or no, speak another language than English,
follow `query_prompt`, abstain, save on an empty retrieval, where it answers "". It is right on about a quarter of
LoCoMo's single-hop questions when it is shown their evidence: train with it on questions that it can answer
(`finemem data build --answerable=spans`), and compare policies with it, never with published numbers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from typing import NamedTuple

from finemem_jax.answerers import _dates, _notes
from finemem_jax.answerers import _span_features as features
from finemem_jax.config import AnswererConfig
from finemem_jax.types import Answerer, AnswerRequest, Chat, Reply

_MOST_CHARACTERS = 4000  # of an item that are read
_MOST_SENTENCES = 12  # in which spans are looked for: those that share most with the question


class Candidate(NamedTuple):
    """A sentence of a retrieved item, with what it is worth for the question, whatever the span."""

    item: int
    note: _notes.Note
    sentence: features.Sentence
    values: tuple[tuple[str, float], ...]  # its features
    overlap: float


class Spans(Answerer):
    """Answers on one background thread, while the device decodes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spans")

    def submit(self, requests: Sequence[AnswerRequest]) -> list[Future[Reply]]:
        futures: list[Future[Reply]] = [Future() for _ in requests]

        def work() -> None:
            for request, future in zip(requests, futures, strict=True):
                try:
                    text, item = _answer(request.question, tuple(item.text for item in request.items))
                    cited = () if item is None else (item,)
                    future.set_result(Reply(text, cited=cited if request.cites else None))
                except Exception as error:  # whoever waits for the answer must see it
                    future.set_exception(error)

        self._thread.submit(work)
        return futures

    def settle(self) -> None:
        """Nothing was put off."""


def create(cfg: AnswererConfig, local: Chat | None = None) -> Spans:
    return Spans()


@functools.lru_cache(maxsize=1 << 13)  # a group's samples ask the same of much the same items
def _answer(question: str, texts: tuple[str, ...]) -> tuple[str, int | None]:
    """The answer and the place of the item that it is from; "" and None where there is none."""
    asked = features.read_question(question)
    found = list(candidates(asked, texts))
    if not found:
        return "", None
    if asked.is_when:
        return _time(found)
    table, best = weights(), (float("-inf"), "", 0)
    for candidate in sorted(found, key=lambda candidate: -candidate.overlap)[:_MOST_SENTENCES]:
        sentence = candidate.sentence
        score, i, j = features.best_span(sentence, asked, table)
        score += sum(table.get(name, 0.0) * value for name, value in candidate.values)
        if score > best[0]:
            best = (score, sentence.text[sentence.starts[i] : sentence.ends[j]], candidate.item)
    return best[1], best[2]


def _time(found: Sequence[Candidate]) -> tuple[str, int]:
    """The time that the sentence nearest to the question gives, or another one of its note, or the note's own date."""
    best = max(found, key=lambda candidate: candidate.overlap + 0.5 * dict(candidate.values)["overlap of the item"])
    own = [candidate for candidate in found if candidate.item == best.item]
    for candidate in (best, *sorted(own, key=lambda candidate: -candidate.overlap)):
        said = _dates.time_of(candidate.sentence.text, best.note.written)
        if said:
            return said, best.item
    return (_dates.written(best.note.written) if best.note.written else ""), best.item


def candidates(asked: features.Asked, texts: Sequence[str]) -> Iterator[Candidate]:
    """Every sentence with a word in it, in the order of the items, best retrieved first."""
    notes = [_notes.read_note(text[:_MOST_CHARACTERS]) for text in texts]
    speakers = frozenset(features.stem(note.speaker) for note in notes if note.speaker)
    for rank, note in enumerate(notes):
        sentences = [sentence for sentence in map(features.read_sentence, note.sentences) if sentence.words]
        in_item = features.overlap({stem for sentence in sentences for stem in sentence.stems}, asked, speakers)
        speaker = 0
        if note.speaker and asked.names:
            speaker = 1 if note.speaker in asked.names else -1
        for sentence in sentences:
            shared = features.overlap(set(sentence.stems), asked, speakers)
            is_asking = sentence.text.rstrip().endswith("?")
            values = tuple(features.sentence_features(shared, in_item, rank, is_asking, speaker))
            yield Candidate(rank, note, sentence, values, shared)


@functools.cache
def weights() -> dict[str, float]:
    """Weight of every feature that has one."""
    return json.loads((resources.files("finemem_jax") / "assets" / "spans.json").read_text(encoding="utf-8"))
