"""`finemem data questions`: questions about a whole history, for a corpus without any, such as one's conversations.

A model behind an endpoint writes candidates about each chunk, as for chunk questions. A candidate is kept as a final
question where the answerer

- gets it right from its chunk alone, else it is "wrong";
- gets it right from the history, that is its chunk and the chunks that BM25 finds for it, latest last; else other parts
  say something else, it is "superseded";
- gets it wrong from nothing, else it is "guessable".

Its evidence is its chunk. Each instance keeps at most --keep of them, spread over its chunks. The corpus is written
anew with them, as OUTPUT, and a report of what was dropped and why beside it. What is left of the candidates goes to
chunk questions (`--chunk-keep`). Texts go to the named endpoints and nowhere else; replies are kept beside the corpus,
so a run that was stopped asks nothing twice.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from finemem_jax.config import UserError, resolve
from finemem_jax.console import tell
from finemem_jax.corpora import _chunk_questions as about_chunks
from finemem_jax.corpora._chunk_questions import Key, QuestionOptions, QuestionReport
from finemem_jax.corpora._options import option, parse_options
from finemem_jax.corpora._question_writing import Candidate, is_repeated
from finemem_jax.env import scoring
from finemem_jax.env.retrieval import BM25
from finemem_jax.files import write_atomically
from finemem_jax.types import AnswererDown, AnswerRequest, Chunk, Episode, Retrieved

_FOUND = 3  # chunks of the history that are shown beside the question's own
_FATES = ("unreadable", "unusable", "wrong", "superseded", "guessable", "repeated", "missing", "over", "kept")
_OTHERS = ("from_evidence", "drop_guessable", "keep")  # of chunk questions, that mean nothing or something else here


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalOptions:
    output: str = option("", "parquet file to write: the corpus with its questions")
    keep: int = option(20, "final questions per instance, at most")
    chunk_keep: int = option(5, "questions about each chunk, from what is left of the candidates; 0 = none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parse_options(parser, [*fields(FinalOptions), *(f for f in fields(QuestionOptions) if f.name not in _OTHERS)])


def questions(**options: Any) -> QuestionReport:
    """Writes the corpus with final questions. Raises UserError on a mistake, or when a server is down."""
    own = FinalOptions(**{f.name: options.pop(f.name) for f in fields(FinalOptions) if f.name in options})
    asked = QuestionOptions(**options, keep=max(own.chunk_keep, 1), drop_guessable=True)
    for flag, least in (("keep", 1), ("chunk_keep", 0)):
        if getattr(own, flag) < least:
            raise UserError(f"--{flag.replace('_', '-')}={getattr(own, flag)}: must be at least {least}")
    if not (asked.corpus.endswith(".parquet") and own.output.endswith(".parquet")):
        raise UserError("--corpus and --output must be parquet files, as `finemem data build` writes them")
    if Path(own.output).resolve() == Path(asked.corpus).resolve():
        raise UserError(f"--output={own.output} is the corpus itself: give another file")
    episodes = list(resolve("finemem_jax.benchmarks", "memalpha").read_file(asked.corpus))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        found = _found(episodes, asked, own, counts)
    except AnswererDown as error:
        raise UserError(f"{error}; what was answered is kept: run the same command again") from error
    _write(asked.corpus, own.output, found)
    report = {"options": {**options, **{f.name: getattr(own, f.name) for f in fields(own)}}, "counts": counts}
    beside = own.output.removesuffix(".parquet") + ".questions.report.json"
    write_atomically(Path(beside), json.dumps(report, indent=1, sort_keys=True))
    if own.chunk_keep:
        _share_replies(asked.corpus, own.output)
        again = {**options, "corpus": own.output, "keep": own.chunk_keep, "drop_guessable": True}
        about_chunks.chunk_questions(**again).show()
    return QuestionReport(own.output, counts, _FATES)


def _found(
    episodes: Sequence[Episode], chosen: QuestionOptions, own: FinalOptions, counts: Mapping[str, Counter[str]]
) -> dict[int, list[tuple[int, Candidate]]]:
    """Row -> (chunk, question) of what is kept."""
    chunks = {(row, chunk.index): (episode, chunk) for row, episode in enumerate(episodes) for chunk in episode.chunks}
    for episode, _ in chunks.values():
        counts[episode.source]["chunks"] += 1
    candidates = about_chunks.write_candidates(chunks, chosen, counts)
    judge = about_chunks.Checker(chunks, chosen)
    kept = judge.sort_out(candidates, True, "wrong", counts, "verify", _of_its_chunk)
    indices = {row: BM25([chunk.text for chunk in episode.chunks]) for row, episode in enumerate(episodes)}

    def of_the_history(key: Key, episode: Episode, chunk: Chunk, candidate: Candidate) -> AnswerRequest:
        near = [place for place, _ in indices[key[0]].search(candidate.question, _FOUND)]
        shown = [episode.chunks[place] for place in sorted({*near, chunk.index})]
        return AnswerRequest(candidate.question, tuple(map(_item, shown)), episode.query_prompt)

    kept = judge.sort_out(kept, True, "superseded", counts, "verify in the history", of_the_history)
    kept = judge.sort_out(kept, False, "guessable", counts, "verify without it", _of_nothing)
    found = {}
    for row, episode in enumerate(episodes):
        found[row] = _spread({key[1]: cs for key, cs in kept.items() if key[0] == row}, episode, own.keep, counts)
        counts[episode.source]["kept"] += len(found[row])
        counts[episode.source]["below K"] += len(found[row]) < own.keep
    return found


def _of_its_chunk(key: Key, episode: Episode, chunk: Chunk, candidate: Candidate) -> AnswerRequest:
    return AnswerRequest(candidate.question, (_item(chunk),), episode.query_prompt)


def _of_nothing(key: Key, episode: Episode, chunk: Chunk, candidate: Candidate) -> AnswerRequest:
    return AnswerRequest(candidate.question, (), episode.query_prompt)


def _item(chunk: Chunk) -> Retrieved:
    return Retrieved(f"#{chunk.index + 1}", chunk.index, (chunk.index,), chunk.text, 1.0)


def _spread(
    by_chunk: Mapping[int, Sequence[Candidate]], episode: Episode, most: int, counts: Mapping[str, Counter[str]]
) -> list[tuple[int, Candidate]]:
    """One of every chunk after the other, until there are enough; none that repeats another."""
    count = counts[episode.source]
    known = {scoring.normalise(question.text) for question in episode.questions}
    taken: list[tuple[int, Candidate]] = []
    longest = max(map(len, by_chunk.values()), default=0)
    for place in range(longest):
        for chunk in sorted(by_chunk):
            if place >= len(by_chunk[chunk]):
                continue
            candidate = by_chunk[chunk][place]
            words = scoring.normalise(candidate.question)
            if words in known or is_repeated(candidate, [other for _, other in taken]):
                count["repeated"] += 1
            elif len(taken) == most:
                count["over"] += 1
            else:
                known.add(words)
                taken.append((chunk, candidate))
    return sorted(taken, key=lambda pair: pair[0])


def _write(corpus: str, output: str, found: Mapping[int, Sequence[tuple[int, Candidate]]]) -> None:
    """The corpus row by row, those found behind the questions that it has."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(corpus)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        asked, metadata = json.loads(row["questions_and_answers"] or "[]"), json.loads(row["metadata"] or "{}")
        evidence = list(metadata.get("evidence") or [[] for _ in asked])
        kinds = list(metadata.get("kinds") or ["" for _ in asked])
        for chunk, candidate in found.get(number, ()):
            asked.append({"question": candidate.question, "answer": candidate.answer})
            evidence.append([chunk])
            kinds.append("written")
        row["questions_and_answers"] = json.dumps(asked, ensure_ascii=False)
        row["metadata"] = json.dumps({**metadata, "evidence": evidence, "kinds": kinds}, ensure_ascii=False)
        row["num_questions"] = len(asked)
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), content, compression="zstd")
    write_atomically(Path(output), content.getvalue())
    if not any(found.values()):
        tell(f"{output}: no question was kept; the report says why")


def _share_replies(corpus: str, output: str) -> None:
    """The replies to the candidates' prompts are those that chunk questions need."""
    source, target = (about_chunks.beside(path, ".chunk_questions.sqlite") for path in (corpus, output))
    if source.exists() and not target.exists():
        write_atomically(target, source.read_bytes())
