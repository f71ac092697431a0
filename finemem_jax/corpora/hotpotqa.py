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

from finemem_jax.corpora import _fields, _options, _questions, _reading
from finemem_jax.env import chunking
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
        for span in chunking.split_text(body, max(1, options.chunk_tokens - count_tokens(header)), count_tokens):
            for number, start in enumerate(starts):
                if span.start <= start < span.end:
                    piece_of[title, number] = len(pieces)
            pieces.append(header + body[span.start : span.end])
    groups = chunking.pack(pieces, options.chunk_tokens, count_tokens)
    chunk_of = {piece: chunk for chunk, group in enumerate(groups) for piece in group}
    questions = []
    for asked in run:
        held_by = [piece_of.get((title, i)) for title, numbers in asked.support.items() for i in numbers]
        evidence = sorted({chunk_of[piece] for piece in held_by if piece is not None})
        questions.append(Question(asked.text, (asked.answer,), evidence=tuple(evidence)))
    return ["\n\n".join(pieces[i] for i in group) for group in groups], questions


def _read(path: Path) -> Iterator[_Asked]:
    for number, row in enumerate(_reading.read_list(path)):
        where = f"{path} row {number}"
        row = _fields.mapping(row, where, "the row")
        articles: dict[str, list[str]] = {}
        for title, sentences in _rows_of(row, "context", ("title", "sentences"), where):
            if not isinstance(title, str) or not isinstance(sentences, list):
                raise _fields.wrong(where, "context", "articles of title and sentences", [title, sentences])
            articles[title] = [str(sentence) for sentence in sentences]
        support: dict[str, list[int]] = {}
        for title, sentence in _rows_of(row, "supporting_facts", ("title", "sent_id"), where):
            if not isinstance(title, str) or type(sentence) is not int:
                raise _fields.wrong(
                    where, "supporting_facts", "titles with the number of a sentence", [title, sentence]
                )
            if title in articles:
                support.setdefault(title, []).append(sentence)
        question, answer = (_fields.text(row, name, where).strip() for name in ("question", "answer"))
        yield _Asked(question, answer, support, articles)


def _rows_of(row: Mapping[str, object], name: str, columns: tuple[str, str], where: str) -> Iterator[Sequence]:
    """The pairs of a field of either layout: a list of pairs, or an object of two columns."""
    value = _fields.field(row, name, where)
    if isinstance(value, Mapping):
        first, second = (_fields.listed(value, column, f"{where} {name}") for column in columns)
        value = [list(pair) for pair in zip(first, second, strict=False)] if len(first) == len(second) else [[]]
    for pair in _fields.decoded(value, where, name, list):
        if not isinstance(pair, list) or len(pair) != 2:
            raise _fields.wrong(where, name, f"pairs of {' and '.join(columns)}", value)
        yield pair
