"""The builder: options -> episodes of one source -> a parquet file with all columns of the published rows."""

from __future__ import annotations

import argparse
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from finemem_jax.config import UserError, resolve
from finemem_jax.corpora._options import BuildOptions, parse_options
from finemem_jax.env.chunking import keep, token_counter
from finemem_jax.files import write_atomically
from finemem_jax.types import Episode, Point, Question


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built, for the command line."""

    output: str
    instances: int
    chunks: int
    tokens: int  # in all chunks, wrapper included
    questions: int
    chunk_questions: int

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.instances} instances, {self.chunks / self.instances:.1f} chunks each, "
            f"{self.tokens / self.chunks:.0f} tokens per chunk, {self.questions / self.instances:.1f} questions each, "
            f"{self.chunk_questions / self.chunks:.1f} questions per chunk"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One `--option` per field of BuildOptions; `build(**vars(parsed))` takes them back."""
    parse_options(parser, fields(BuildOptions))


def build(**options: object) -> BuildReport:
    """Writes the corpus that the fields of BuildOptions describe. Raises UserError on what cannot be built."""
    chosen = BuildOptions(**options)  # type: ignore[arg-type]
    count_tokens = token_counter(chosen.tokenizer)
    source = resolve("finemem_jax.corpora", chosen.source)
    episodes = list(itertools.islice(source.episodes(chosen, count_tokens), chosen.instances or None))
    if not episodes:
        raise UserError(
            f"nothing to build from --input={chosen.input} with --split={chosen.split}: too little text for "
            f"--chunks={chosen.chunks} of --chunk-tokens={chosen.chunk_tokens}, or no question about it"
        )
    write_rows(episodes, chosen)
    keep(count_tokens)
    chunks = [chunk for episode in episodes for chunk in episode.chunks]
    return BuildReport(
        output=chosen.output,
        instances=len(episodes),
        chunks=len(chunks),
        tokens=sum(count_tokens(chunk.text) for chunk in chunks),
        questions=sum(len(episode.questions) for episode in episodes),
        chunk_questions=sum(len(chunk.questions) for chunk in chunks),
    )


# --------------------------------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------------------------------

_TASK = (
    "You read a history piece by piece and keep a memory of it. Later you answer questions from that memory alone, "
    "so store what they may ask for."
)


def write_rows(episodes: Sequence[Episode], options: BuildOptions) -> None:
    """The rows that `benchmarks/memalpha.py` reads, byte for byte the same for the same episodes. Raises UserError on a
    question without an answer."""
    import pyarrow
    import pyarrow.parquet

    for episode in episodes:
        for question in (*episode.questions, *(asked for chunk in episode.chunks for asked in chunk.questions)):
            if not any(map(str.strip, question.answers)):
                raise UserError(f"--input={options.input}: no answer is given to {question.text!r}")
    rows = [_row(number, episode, options) for number, episode in enumerate(episodes)]
    schema = pyarrow.schema(
        [
            ("instance_id", pyarrow.int64()),
            ("prompt", pyarrow.string()),
            ("chunks", pyarrow.string()),
            ("questions_and_answers", pyarrow.string()),
            ("data_source", pyarrow.string()),
            ("metadata", pyarrow.string()),
            ("num_chunks", pyarrow.int64()),
            ("num_questions", pyarrow.int64()),
        ]
    )
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), content, compression="zstd")
    write_atomically(Path(options.output), content.getvalue())


def _row(number: int, episode: Episode, options: BuildOptions) -> dict[str, object]:
    metadata = {
        "sub_source": options.source,
        "split": options.split,
        "seed": options.seed,
        "evidence": [list(question.evidence) for question in episode.questions],
        "kinds": [question.kind for question in episode.questions],
        "chunk_questions": [[_pair(question) for question in chunk.questions] for chunk in episode.chunks],
    }
    if any(chunk.points is not None for chunk in episode.chunks):
        metadata["points"] = [None if c.points is None else list(map(_point, c.points)) for c in episode.chunks]
    return {
        "instance_id": number,
        "prompt": _TASK,
        "chunks": _json([chunk.text for chunk in episode.chunks]),
        "questions_and_answers": _json([_pair(question) for question in episode.questions]),
        "data_source": episode.source,
        "metadata": _json(metadata),
        "num_chunks": len(episode.chunks),
        "num_questions": len(episode.questions),
    }


def _point(point: Point) -> dict[str, object]:
    said: dict[str, object] = {"text": point.text, "kind": point.kind, "value": point.value, "about": list(point.about)}
    return said | ({"replaces": list(point.replaces)} if point.replaces else {})


def _pair(question: Question) -> dict[str, object]:
    """A lone answer is a string, as in the published rows, which know no lines."""
    answers = list(question.answers)
    pair: dict[str, object] = {"question": question.text, "answer": answers[0] if len(answers) == 1 else answers}
    if question.lines:
        pair["lines"] = list(question.lines)
    return pair


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
