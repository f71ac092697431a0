"""SQuAD (v1.1, v2.0, or the English part of XQuAD): paragraphs of Wikipedia with questions on them.

Input: a JSON file as published, or a folder of them; articles of the same title are joined, equal paragraphs taken
once. Chunks are runs of whole paragraphs of the articles, in order; a paragraph over the budget is cut at sentences,
and its questions go where their answer stands. Unanswerable questions, which name no answer, are dropped. Train and
eval share no article.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from finemem_jax.corpora import _fields, _questions, _reading
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.env import chunking
from finemem_jax.types import CountTokens, Episode, Question


class _Piece(NamedTuple):
    """A paragraph, or a part of a long one, with the questions whose answer it holds: (text, answers)."""

    text: str
    asked: list[tuple[str, tuple[str, ...]]]


def episodes(options: BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    articles = list(read_articles(options.input).values())
    chosen = options.of_split(articles)
    options.rng(options.split, "articles").shuffle(chosen)
    pieces = [p for article in chosen for paragraph in article for p in _pieces(paragraph, options, count_tokens)]
    groups = chunking.pack([piece.text for piece in pieces], options.chunk_tokens, count_tokens)
    texts = ["\n\n".join(pieces[i].text for i in group) for group in groups]
    questions = [
        Question(text, answers, evidence=(chunk,))
        for chunk, group in enumerate(groups)
        for i in group
        for text, answers in pieces[i].asked
    ]
    for number, (run, own) in enumerate(_questions.windows(texts, questions, options.chunks)):
        yield _questions.episode("squad", number, run, own, options)


def read_articles(given: str) -> dict[str, list[dict]]:
    """Title -> paragraphs, in the order of the files. Equal paragraphs pool their questions."""
    articles: dict[str, dict[str, dict]] = {}
    for path in _reading.find(given, "*.json"):
        data = _fields.mapping(_reading.read_json(path), str(path), "the file")
        for number, article in enumerate(_fields.listed(data, "data", str(path))):
            where = f"{path} article {number}"
            article = _fields.mapping(article, where, "the article")
            paragraphs = articles.setdefault(_fields.text(article, "title", where), {})
            for i, paragraph in enumerate(_fields.listed(article, "paragraphs", where)):
                _read_paragraph(paragraph, f"{where} paragraph {i}", paragraphs)
    return {title: list(paragraphs.values()) for title, paragraphs in articles.items()}


def _read_paragraph(given: object, where: str, paragraphs: dict[str, dict]) -> None:
    """Adds a paragraph, or its questions where it is there already."""
    paragraph = _fields.mapping(given, where, "the paragraph")
    context = _fields.text(paragraph, "context", where)
    first = paragraphs.setdefault(context, {"context": context, "qas": {}})
    for i, asked in enumerate(_fields.listed(paragraph, "qas", where)):
        asked = _fields.mapping(asked, where, f"qas[{i}]")
        answers = [_fields.mapping(a, where, f"qas[{i}].answers") for a in _fields.listed(asked, "answers", where)]
        for answer in answers:
            if not isinstance(answer.get("text"), str) or type(answer.get("answer_start")) is not int:
                raise _fields.wrong(where, f"qas[{i}].answers", "objects of text and answer_start", answer)
        first["qas"].setdefault(_fields.text(asked, "question", where).strip(), {"answers": answers})


def _pieces(paragraph: dict, options: BuildOptions, count_tokens: CountTokens) -> list[_Piece]:
    context = paragraph["context"]
    spans = chunking.split_text(context, options.chunk_tokens, count_tokens)
    pieces = [_Piece(context[span.start : span.end], []) for span in spans]
    for text, asked in paragraph["qas"].items():
        answers = [a for a in asked["answers"] if _questions.is_short(a["text"], options)]
        for span, piece in zip(spans, pieces, strict=True):
            inside = [
                a["text"] for a in answers if span.start <= a["answer_start"] < span.end and a["text"] in piece.text
            ]
            if inside:
                piece.asked.append((text, tuple(dict.fromkeys(inside))))
                break
    return pieces
