"""Any text of your own.

Input: a `.txt` or `.md` file, a `.jsonl` file with lines of {"text": …, "questions": [{"question", "answer"}]}
(questions optional), or a folder of them. A document is cut into runs of `--chunks` chunks (0 = one run); one with
questions must fit into a single run. Without questions the rows wait for chunk questions in a side file
(`benchmarks/memalpha.py`). Train and eval share no document.
"""

from __future__ import annotations

from collections.abc import Iterator

from finemem_jax.config import UserError
from finemem_jax.corpora import _fields, _options, _questions, _reading
from finemem_jax.env import chunking
from finemem_jax.types import CountTokens, Episode, Question


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    number = 0
    for where, text, questions in options.of_split(list(_documents(options.input))):
        spans = chunking.split_text(text, options.chunk_tokens, count_tokens)
        texts = [text[span.start : span.end] for span in spans]
        size = options.chunks or len(texts)
        if questions and len(texts) > size:
            raise UserError(
                f"{where} has questions and {len(texts)} chunks of --chunk-tokens={options.chunk_tokens}, "
                f"more than --chunks={size}: raise one of them, or --chunks=0"
            )
        for start in range(0, len(texts), size or 1):
            yield _questions.episode("text", number, texts[start : start + size], questions, options)
            number += 1


def _documents(given: str) -> Iterator[tuple[str, str, list[Question]]]:
    """(where it stands, text, questions) of each document."""
    for path in _reading.find(given, "*.txt", "*.md", "*.jsonl"):
        if ".jsonl" not in path.name:
            yield str(path), _reading.read_text(path), []
            continue
        for line, row in enumerate(_reading.read_json_lines(path), start=1):
            where = f"{path} line {line}"
            questions = []
            for i, asked in enumerate(_fields.decoded(row.get("questions") or [], where, "questions", list)):
                asked = _fields.mapping(asked, where, f"questions[{i}]")
                answers = _fields.answers(asked.get("answer"), where, f"questions[{i}].answer")
                questions.append(Question(_fields.text(asked, "question", where), answers[:1]))
            yield where, _fields.text(row, "text", where), questions
