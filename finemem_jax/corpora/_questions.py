"""Documents with annotated questions -> episodes: what is asked about a chunk, and what at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from finemem_jax.corpora import _dialogue
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.types import Chunk, Episode, Question

_T = TypeVar("_T")


def episode(
    data_source: str,
    number: int,
    texts: Sequence[str],
    questions: Sequence[Question],
    options: BuildOptions,
    *,
    is_dialogue: bool = False,
) -> Episode:
    """One instance over `texts`, the contents of its chunks; `evidence` of a question are indices into them.

    Of the questions that one chunk answers, up to half become questions about that chunk, `chunk_questions` at most;
    all others are final ones, of which `questions` are drawn. No question is in both sets. Texts that are dialogues
    already are not wrapped into another one.
    """
    rng = options.rng(options.split, number)
    by_chunk: dict[int, list[Question]] = defaultdict(list)
    for question in questions:
        if len(question.evidence) == 1:
            by_chunk[question.evidence[0]].append(question)
    about = {
        index: rng.sample(found, min(options.chunk_questions, len(found) // 2))
        for index, found in sorted(by_chunk.items())
    }
    asked = {id(question) for found in about.values() for question in found}
    final = [question for question in questions if id(question) not in asked]
    drawn = sorted(rng.sample(range(len(final)), min(options.questions, len(final))))
    chunks = []
    for index, text in enumerate(texts):
        if options.layout == "dialogue" and not is_dialogue:
            text = _dialogue.wrap(text, index, rng)
        chunks.append(Chunk(text, index, tuple(about.get(index, ()))))
    return Episode(f"{data_source}-{number}", data_source, tuple(chunks), tuple(final[i] for i in drawn))


def windows(texts: Sequence[str], questions: Sequence[Question], chunks: int) -> list[tuple[list[str], list[Question]]]:
    """`texts` cut into runs of `chunks` (0 = one run), each with the questions that it can answer alone.

    A shorter last run is left out, unless it is the only one; so is a run without a question.
    """
    size = chunks or len(texts)
    runs = [range(start, min(start + size, len(texts))) for start in range(0, len(texts), size or 1)]
    found = []
    for run in runs:
        own = [
            replace(q, evidence=tuple(i - run.start for i in q.evidence))
            for q in questions
            if q.evidence and all(i in run for i in q.evidence)
        ]
        if own and (len(run) == size or len(runs) == 1):
            found.append(([texts[i] for i in run], own))
    return found


def fill(documents: Sequence[_T], chunks_of: Callable[[list[_T]], int], most: int) -> Iterator[list[_T]]:
    """Runs of consecutive documents, each as long as its `chunks_of` stays within `most` (0 = one run)."""
    run: list[_T] = []
    for document in documents:
        if run and most and chunks_of([*run, document]) > most:
            yield run
            run = []
        run.append(document)
    if run:
        yield run


def is_short(answer: str, options: BuildOptions) -> bool:
    """Whether an answer is short enough to be found word for word in a reply."""
    return not options.max_answer_words or len(answer.split()) <= options.max_answer_words
