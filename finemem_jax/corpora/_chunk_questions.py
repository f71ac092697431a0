"""`finemem data chunk-questions`: K questions about each chunk of a corpus, for the chunk-level step reward.

With a model: it writes candidates about each chunk; a candidate is kept if the answerer gets it right from that chunk
alone (and, with --drop-guessable, wrong from nothing). Without one, --from-evidence: questions whose annotated
evidence is one chunk. They are stored in `CORPUS.chunk_questions.jsonl`, where `benchmarks/memalpha.py` finds them,
beside a report of what was dropped and why.

Replies are kept in `CORPUS.chunk_questions.sqlite` the moment they come: a run that is stopped and started again asks
nothing twice and writes the same file. A question that the server failed on is neither right nor wrong: it is left
out, counted, and asked again by the next run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from finemem_jax.answerers._model import open_endpoint
from finemem_jax.config import AnswererConfig, UserError, resolve
from finemem_jax.console import Progress, print_table, tell
from finemem_jax.corpora import _question_writing as writing
from finemem_jax.corpora._options import option, parse_options
from finemem_jax.corpora._question_writing import Candidate
from finemem_jax.corpora._sources import source_of
from finemem_jax.env import scoring
from finemem_jax.env.thoughts import without_thoughts
from finemem_jax.files import write_atomically, write_json_lines
from finemem_jax.types import AnswererDown, AnswerRequest, Chunk, Episode, Reply, Retrieved

Key = tuple[int, int]  # row, chunk
PATIENCE_SECONDS = 600.0  # how long a server may be away
_FATES = ("unreadable", "unusable", "repeated", "wrong", "guessable", "missing", "over", "kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    corpus: str = option("", "Memalpha-format file (parquet, JSON or JSON lines); the questions are stored beside it")
    from_evidence: bool = option(False, "no model: take the questions whose annotated evidence is one chunk")
    keep: int = option(5, "K: questions kept per chunk")
    candidates: int = option(8, "questions the model is asked for, per chunk")
    url: str = option("", "base URL of the OpenAI-compatible server that writes the questions, ending in /v1")
    model: str = option("", "the name under which it serves the model")
    key_variable: str = option("OPENAI_API_KEY", "environment variable that holds its key")
    answerer: str = option("endpoint", "what checks the questions", ("endpoint", "extractive"))
    answerer_url: str = option("", "server of the answerer; empty = --url")
    answerer_model: str = option("", "its model; empty = --model")
    answerer_key_variable: str = option("", "its key's variable; empty = --key-variable")
    drop_guessable: bool = option(False, "also drop questions that the answerer gets right without the chunk")
    min_score: float = option(0.5, "score, under the source's metric, from which an answer counts as right")
    concurrency: int = option(64, "requests under way at once, per server")
    temperature: float = option(0.7, "of the model that writes; the answerer's is 0")
    extra: str = option("", 'JSON object merged into every request, e.g. {"chat_template_kwargs": …}')

    def __post_init__(self) -> None:
        if not self.corpus:
            raise UserError("--corpus is missing: the Memalpha-format file to write questions about")
        if not Path(self.corpus).is_file():
            raise UserError(f"--corpus={self.corpus}: no such file")
        for name in ("keep", "candidates", "concurrency"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}={getattr(self, name)}: must be at least 1")
        if not 0 < self.min_score <= 1:
            raise UserError(f"--min-score={self.min_score}: must be above 0 and at most 1")
        if not self.from_evidence and not (self.url and self.model):
            raise UserError("--url and --model name the model that writes questions; --from-evidence needs none")

    @property
    def writer(self) -> AnswererConfig:
        return self._endpoint(self.url, self.model, self.key_variable, self.temperature, 2048)

    @property
    def checker(self) -> AnswererConfig:
        key = self.answerer_key_variable or self.key_variable
        return self._endpoint(self.answerer_url or self.url, self.answerer_model or self.model, key, 0.0, 512)

    def _endpoint(self, url: str, model: str, key: str, temperature: float, max_tokens: int) -> AnswererConfig:
        return AnswererConfig(
            name=self.answerer,
            url=url,
            model=model,
            key_variable=key,
            temperature=temperature,
            max_tokens=max_tokens,
            concurrency=self.concurrency,
            extra=self.extra,
            patience_seconds=PATIENCE_SECONDS,
            cache=str(beside(self.corpus, ".chunk_questions.sqlite")),
        )


@dataclass(frozen=True, slots=True)
class QuestionReport:
    """What became of every candidate, by data source."""

    output: str
    counts: Mapping[str, Counter[str]]  # data source -> chunks, short chunks, candidates, and each of `fates`
    fates: tuple[str, ...] = _FATES

    def show(self) -> None:
        columns = ["", "chunks", "below K", "candidates", *self.fates]
        total = sum(self.counts.values(), Counter())
        rows = [
            [name, *(str(count[column]) for column in columns[1:4]), *(_share(count, fate) for fate in self.fates)]
            for name, count in (*sorted(self.counts.items()), ("all", total))
        ]
        print_table(f"{self.output}: {total['kept']} questions", columns, rows)
        if total["missing"]:
            tell(f"{total['missing']} replies are missing, the server failed on them: run it again to fill the gaps")


def _share(count: Counter[str], fate: str) -> str:
    return f"{count[fate]} ({count[fate] / max(count['candidates'], 1):.0%})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One `--option` per field of QuestionOptions; `chunk_questions(**vars(parsed))` takes them back."""
    parse_options(parser, fields(QuestionOptions))


def chunk_questions(**options: Any) -> QuestionReport:
    """Writes the questions beside the corpus. Raises UserError on a mistake, or when a server is down."""
    chosen = QuestionOptions(**options)
    episodes = list(resolve("finemem_jax.benchmarks", "memalpha").read_file(chosen.corpus))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        found = (_from_evidence if chosen.from_evidence else _from_model)(episodes, chosen, counts)
    except AnswererDown as error:
        raise UserError(f"{error}; what was answered is kept: run the same command again") from error
    for (row, _), questions in found.items():
        count = counts[episodes[row].source]
        count["chunks"] += 1
        count["below K"] += len(questions) < chosen.keep
        count["kept"] += len(questions)
    output = beside(chosen.corpus, ".chunk_questions.jsonl")
    write_json_lines(
        output,
        (
            {"row": row, "chunk": chunk, "questions": [_pair(candidate) for candidate in questions]}
            for (row, chunk), questions in sorted(found.items())
        ),
    )
    report = {"options": {f.name: getattr(chosen, f.name) for f in fields(chosen)}, "counts": counts}
    write_atomically(
        beside(chosen.corpus, ".chunk_questions.report.json"), json.dumps(report, indent=1, sort_keys=True)
    )
    return QuestionReport(str(output), counts)


def beside(corpus: str, ending: str) -> Path:
    return Path(os.path.splitext(corpus)[0] + ending)


def _pair(candidate: Candidate) -> dict[str, object]:
    pair: dict[str, object] = {"question": candidate.question, "answer": candidate.answer}
    return pair | {"lines": list(candidate.lines)} if candidate.lines else pair


# --------------------------------------------------------------------------------------------------------------
# With a model
# --------------------------------------------------------------------------------------------------------------


def _from_model(
    episodes: Sequence[Episode], chosen: QuestionOptions, counts: Mapping[str, Counter[str]]
) -> dict[Key, list[Candidate]]:
    """(row, chunk) -> its questions; chunks whose reply is missing are left out, for the next run."""
    chunks = {(row, chunk.index): (episode, chunk) for row, episode in enumerate(episodes) for chunk in episode.chunks}
    candidates = write_candidates(chunks, chosen, counts)
    checker = Checker(chunks, chosen)
    kept = checker.sort_out(candidates, True, "wrong", counts, "verify", _shown)
    if chosen.drop_guessable:
        kept = checker.sort_out(kept, False, "guessable", counts, "verify without the chunk", _unseen)
    return _distinct(kept, chunks, chosen.keep, counts)


Request = Callable[[Key, Episode, Chunk, Candidate], AnswerRequest]
"""What the answerer is asked of a candidate."""


class Checker:
    """The answerer that candidates are verified with."""

    def __init__(self, chunks: Mapping[Key, tuple[Episode, Chunk]], chosen: QuestionOptions):
        self._chunks, self._least = chunks, chosen.min_score
        self._answerer = resolve("finemem_jax.answerers", chosen.answerer).create(chosen.checker)

    def sort_out(
        self,
        candidates: Mapping[Key, Sequence[Candidate]],
        wanted: bool,
        fate: str,
        counts: Mapping[str, Counter[str]],
        title: str,
        request: Request,
    ) -> dict[Key, list[Candidate]]:
        """The candidates that the answerer gets right, or wrong, as is `wanted`; the others are counted as `fate`, or
        as missing where it failed."""
        verdicts = self._right(candidates, title, request)
        kept: dict[Key, list[Candidate]] = {}
        for key, asked in candidates.items():
            count = counts[self._chunks[key][0].source]
            kept[key] = []
            for candidate, verdict in zip(asked, verdicts[key], strict=True):
                if verdict is wanted:
                    kept[key].append(candidate)
                else:
                    count["missing" if verdict is None else fate] += 1
        return kept

    def _right(
        self, asked: Mapping[Key, Sequence[Candidate]], title: str, request: Request
    ) -> dict[Key, list[bool | None]]:
        """Per candidate, whether the answerer gets it right; None where it failed."""
        futures = {
            key: self._answerer.submit([request(key, *self._chunks[key], candidate) for candidate in found])
            for key, found in asked.items()
        }
        self._answerer.settle()
        judged: dict[Key, list[bool | None]] = {}
        with Progress(len(futures), title) as progress:
            for done, (key, waiting) in enumerate(futures.items(), start=1):
                metric = source_of(self._chunks[key][0].source).metric
                judged[key] = [
                    _is_right(future.result(), candidate, metric, self._least)
                    for future, candidate in zip(waiting, asked[key], strict=True)
                ]
                progress.update(done)
        return judged


def write_candidates(
    chunks: Mapping[Key, tuple[Episode, Chunk]], chosen: QuestionOptions, counts: Mapping[str, Counter[str]]
) -> dict[Key, list[Candidate]]:
    writer = open_endpoint(chosen.writer)
    conversations = [
        writing.writing_messages(chunk.text, chosen.candidates, labels=_is_labelled(episode))
        for episode, chunk in chunks.values()
    ]
    futures = dict(zip(chunks, writer.submit(conversations), strict=True))
    waiting = set(futures.values())  # equal chunks are asked about once
    with Progress(len(waiting), "write") as progress:
        for done, _ in enumerate(as_completed(waiting), start=1):
            progress.update(done)
    found = {}
    for key, future in futures.items():
        episode, _ = chunks[key]
        count, reply = counts[episode.source], future.result().text
        if reply is None:
            count["missing"] += 1
            continue
        reading = writing.read_candidates(without_thoughts(reply).strip(), labels=_is_labelled(episode))
        count["unreadable"] += reading is None
        found[key] = [] if reading is None else reading.candidates
        count["candidates"] += len(found[key]) + (reading.unusable if reading else 0)
        count["unusable"] += reading.unusable if reading else 0
    return found


def _is_labelled(episode: Episode) -> bool:
    return source_of(episode.source).kind == "label"


def _shown(key: Key, episode: Episode, chunk: Chunk, candidate: Candidate) -> AnswerRequest:
    items = (Retrieved("#1", chunk.index, (chunk.index,), chunk.text, 1.0),)
    return AnswerRequest(candidate.question, items, episode.query_prompt)


def _unseen(key: Key, episode: Episode, chunk: Chunk, candidate: Candidate) -> AnswerRequest:
    return AnswerRequest(candidate.question, (), episode.query_prompt)


def _is_right(reply: Reply, candidate: Candidate, metric: str, least: float) -> bool | None:
    return None if reply.text is None else scoring.score(metric, reply.text, (candidate.answer,)) >= least


def _distinct(
    candidates: Mapping[Key, Sequence[Candidate]],
    chunks: Mapping[Key, tuple[Episode, Chunk]],
    most: int,
    counts: Mapping[str, Counter[str]],
) -> dict[Key, list[Candidate]]:
    """At most `most` per chunk; none that repeats another of its chunk, nor word for word one of its episode."""
    said: dict[int, set[tuple[str, ...]]] = {}  # row -> questions so far, the final ones first
    kept: dict[Key, list[Candidate]] = {}
    for key in sorted(candidates):
        episode, _ = chunks[key]
        count = counts[episode.source]
        known = said.setdefault(key[0], {scoring.normalise(question.text) for question in episode.questions})
        kept[key] = []
        for candidate in candidates[key]:
            words = scoring.normalise(candidate.question)
            if words in known or writing.is_repeated(candidate, kept[key]):
                count["repeated"] += 1
            elif len(kept[key]) == most:
                count["over"] += 1
            else:
                known.add(words)
                kept[key].append(candidate)
    return kept


# --------------------------------------------------------------------------------------------------------------
# Without one
# --------------------------------------------------------------------------------------------------------------


def _from_evidence(
    episodes: Sequence[Episode], chosen: QuestionOptions, counts: Mapping[str, Counter[str]]
) -> dict[Key, list[Candidate]]:
    """The questions set aside for a chunk when the corpus was built, filled up with final questions whose evidence is
    that chunk alone. What needs two chunks is no question about one of them."""
    if not any(q.evidence for episode in episodes for q in (*episode.questions, *_about_chunks(episode))):
        raise UserError(
            f"{chosen.corpus}: no row names evidence (metadata.evidence, as `finemem data build` writes it); "
            "without it a model is needed: --url, --model"
        )
    found: dict[Key, list[Candidate]] = {}
    for row, episode in enumerate(episodes):
        count = counts[episode.source]
        for chunk in episode.chunks:
            asked = [*chunk.questions, *(q for q in episode.questions if q.evidence == (chunk.index,))]
            candidates = [Candidate(question.text, question.answers[0], question.lines) for question in asked]
            count["candidates"] += len(candidates)
            own: list[Candidate] = []
            for candidate in candidates:
                if writing.is_repeated(candidate, own):
                    count["repeated"] += 1
                elif len(own) == chosen.keep:
                    count["over"] += 1
                else:
                    own.append(candidate)
            found[row, chunk.index] = own
    return found


def _about_chunks(episode: Episode) -> list:
    return [question for chunk in episode.chunks for question in chunk.questions]
