"""Benchmarks: one file each, which exports

    load(cfg: DataConfig, split: str, seed: int) -> Sequence[Episode]

split: "train" (in an order fixed by `seed`) or "eval". The folder is the registry: a new file is a new
`config.data.name`. Files whose name starts with "_" are shared parts. A file may also say of the data sources it reads

    SOURCES    their metric, kind and official judge, by the start of their name: {"beam": Source(…)}
    OVERLAPS   what other data holds their text: ((start of the name, (starts of others, …), how), …)

Where it says nothing, what corpora/_sources.py knows holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from finemem_jax.config import UserError, plugins, resolve
from finemem_jax.corpora import _sources
from finemem_jax.corpora._sources import Source, only_a_judge_can_score
from finemem_jax.types import Episode

__all__ = ["Source", "contamination", "only_a_judge_can_score", "source_of", "with_reference_metrics", "without_wrong"]

EXPORTS = ("load()",)
_PACKAGE = "finemem_jax.benchmarks"


def _said(name: str) -> Iterator:
    """What each benchmark's file says under that name, where it says it."""
    for benchmark in plugins(_PACKAGE):
        said = getattr(resolve(_PACKAGE, benchmark), name, None)
        if said is not None:
            yield said


def source_of(data_source: str) -> Source:
    """What is known of a data source: by the file of a benchmark, else by corpora/_sources.py."""
    for sources in _said("SOURCES"):
        for start, source in sources.items():
            if data_source.lower().startswith(start):
                return source
    return _sources.source_of(data_source)


def with_reference_metrics(episode: Episode) -> Episode:
    """The episode, its final questions judged as in the published evaluation (`config.eval.metrics=reference`)."""
    return _sources.with_reference_metrics(episode, source_of(episode.source))


def contamination(evaluated: Iterable[str], trained: Iterable[str] | None = None) -> list[str]:
    """One warning line per evaluated data source that overlaps data one may have trained on, see `_sources`."""
    overlaps = [overlap for said in _said("OVERLAPS") for overlap in said]
    return _sources.contamination(evaluated, trained, overlaps)


def without_wrong(episodes: Sequence[Episode], path: str) -> tuple[Sequence[Episode], str]:
    """The episodes without the questions that a file names, and a line on what was left out.

    path: one id of a question (`Question.id`) per line, what follows it after white space is a remark; empty lines and
    those that start with "#" say nothing. Raises UserError where the file cannot be read, or the episodes are made up.
    """
    field = f"config.data.wrong_golds={path}"
    if not isinstance(episodes, tuple | list):
        raise UserError(f"{field}: config.data.name has no questions with an id; it is for benchmarks that read files")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{field} cannot be read: {error}") from error
    wrong = {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
    there = {question.id for episode in episodes for question in episode.questions}
    kept = []
    for episode in episodes:
        questions = tuple(question for question in episode.questions if question.id not in wrong)
        if questions or not episode.questions:
            kept.append(replace(episode, questions=questions))
    if not kept:
        raise UserError(f"{field} leaves no question")
    unknown = f"; {len(wrong - there)} of its {len(wrong)} ids are of no question here" if wrong - there else ""
    return tuple(kept), f"{len(wrong & there)} questions with a wrong gold answer are left out ({field}){unknown}"
