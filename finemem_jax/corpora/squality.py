"""SQuALITY: short stories with questions on the whole, each answered at length by several readers.

Input: JSON lines as published, or the folder of them. An instance is a whole story; one that needs more than
`--chunks` chunks is left out, because its questions ask for all of it. All responses count as answers. Train and
eval share no story.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finemem_jax.corpora import _fields, _options, _questions, _reading
from finemem_jax.env import chunking
from finemem_jax.types import CountTokens, Episode, Question


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    stories: dict[str, list[Question]] = {}
    for path in _reading.find(options.input, "*.jsonl"):
        for number, row in enumerate(_reading.read_json_lines(path)):
            where = f"{path} row {number}"
            questions = stories.setdefault(_tidy(_fields.text(row, "document", where)), [])
            for i, asked in enumerate(_fields.listed(row, "questions", where)):
                name = f"questions[{i}]"
                asked = _fields.mapping(asked, where, name)
                responses = [
                    _fields.text(_fields.mapping(response, where, name), "response_text", where).strip()
                    for response in _fields.listed(asked, "responses", f"{where} {name}")
                ]
                answers = _fields.answers(responses, where, f"{name}.responses")
                questions.append(Question(_fields.text(asked, "question_text", where).strip(), answers))
    number = 0
    for text, questions in options.of_split(list(stories.items())):
        spans = chunking.split_text(text, options.chunk_tokens, count_tokens)
        if questions and (not options.chunks or len(spans) <= options.chunks):
            texts = [text[span.start : span.end] for span in spans]
            yield _questions.episode("squality", number, texts, questions, options)
            number += 1


def _tidy(text: str) -> str:
    """The story without the indents and runs of empty lines of its web page."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip(" \t") for line in text.split("\n"))).strip()
