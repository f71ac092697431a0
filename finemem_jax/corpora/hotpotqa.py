"""HotpotQA: questions that need two articles of Wikipedia.

Input: a JSON file of either layout (the original lists, or the columns of the Hugging Face copy), or a folder of
them. An instance holds the supporting articles of consecutive questions, as many as fit its chunks, and `--noise`
unrelated articles per question. Train and eval share no question and no supporting article: a train question whose
articles an eval question needs is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finemem_jax.config import UserError
from finemem_jax.corpora import _chunking, _options, _questions, _reading
from finemem_jax.types import CountTokens, Episode, Question


@dataclass(frozen=True, slots=True)
class _Asked:
    text: str
    answer: str
    support: dict[str, list[int]]  # title -> numbers of the sentences that hold the evidence
    articles: dict[str, list[str]]  # title -> sentences; the unrelated ones too


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    asked = [a for path in _reading.find(options.input, "*.json") for a in _read(path)]
    asked = [a for a in asked if _questions.is_short(a.answer, options)]
    train, held_out = _options.divide(asked)
    taken = {title for a in held_out for title in a.support}
    train = [a for a in train if not taken & a.support.keys()]
    chosen = {"train": train, "eval": held_out, "all": asked}[options.split]
    options.rng(options.split, "order").shuffle(chosen)

    def chunked(run: Sequence[_Asked]) -> tuple[list[str], list[Question]]:
        return _chunked(run, options, count_tokens)

    runs = _questions.fill(chosen, lambda run: len(chunked(run)[0]), options.chunks)
    for number, run in enumerate(runs):
        yield _questions.episode("hotpotqa", number, *chunked(run), options)


def _chunked(
    run: Sequence[_Asked], options: _options.BuildOptions, count_tokens: CountTokens
) -> tuple[list[str], list[Question]]:
    """(contents of the chunks, questions) of an instance: every article once, where it is first needed."""
    articles: dict[str, list[str]] = {}
    for asked in run:
        unrelated = [title for title in asked.articles if title not in asked.support][: options.noise]
        for title in (*asked.support, *unrelated):
            articles.setdefault(title, asked.articles[title])
    pieces: list[str] = []
    piece_of: dict[tuple[str, int], int] = {}  # (title, sentence) -> piece that holds its start
    for title, sentences in articles.items():
        header = f"Title: {title}\n"
        body, starts = "", []
        for sentence in sentences:
            body += sentence if sentence.startswith(" ") or not body else f" {sentence}"
            starts.append(len(body) - len(sentence.lstrip()))
        for span in _chunking.split_text(body, max(1, options.chunk_tokens - count_tokens(header)), count_tokens):
            for number, start in enumerate(starts):
                if span.start <= start < span.end:
                    piece_of[title, number] = len(pieces)
            pieces.append(header + body[span.start : span.end])
    groups = _chunking.pack(pieces, options.chunk_tokens, count_tokens)
    chunk_of = {piece: chunk for chunk, group in enumerate(groups) for piece in group}
    questions = []
    for asked in run:
        held_by = [piece_of.get((title, i)) for title, numbers in asked.support.items() for i in numbers]
        evidence = sorted({chunk_of[piece] for piece in held_by if piece is not None})
        questions.append(Question(asked.text, (asked.answer,), evidence=tuple(evidence)))
    return ["\n\n".join(pieces[i] for i in group) for group in groups], questions


def _read(path: Path) -> Iterator[_Asked]:
    data = _reading.read_json(path)
    try:
        for row in data:  # type: ignore[attr-defined]
            context, facts = row["context"], row["supporting_facts"]
            if isinstance(context, Mapping):
                context = zip(context["title"], context["sentences"], strict=True)
                facts = zip(facts["title"], facts["sent_id"], strict=True)
            articles = {title: list(sentences) for title, sentences in context}
            support: dict[str, list[int]] = {}
            for title, number in facts:
                if title in articles:
                    support.setdefault(title, []).append(number)
            yield _Asked(row["question"].strip(), row["answer"].strip(), support, articles)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not in HotpotQA's format: {error}") from error
