"""One table of many evaluations: `finemem evaluate --table=FILE`.

It is made from what evaluations left (`evaluation.json`, `questions-NAME.jsonl`, `evaluation/setup.json`), so it can be
made of runs of other days and machines. A row is a contestant of a run. Columns: the mean of sources, the difference to
a chosen row, how many questions have a score and how many are missing one (no answer, or a judge without a verdict),
every source, every kind of question (ability), calls, tokens, seconds. Intervals are 95 % bootstrap intervals over
instances; differences are paired: over the questions that have a score in both rows, each with itself.

Below it stand the command, the judge and the digests of the files of every run: what another needs to get it again.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finemem_jax.config import UserError, unknown
from finemem_jax.console import printable
from finemem_jax.evaluation.intervals import bootstrap_interval
from finemem_jax.files import read_lines, read_object, write_atomically

SETUP = "evaluation/setup.json"
SUFFIXES = (".md", ".csv", ".tex")
_RESAMPLES, _SEED = 2000, 1234  # as config.eval has them by default
_CALLS = ("policy_calls", "answer_calls")
_TOKENS = (
    "policy_prompt_tokens",
    "policy_completion_tokens",
    "answer_prompt_tokens",
    "answer_completion_tokens",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A number with its interval, in [0, 1] or a difference of two such; None = nothing is known."""

    value: float | None
    low: float | None = None
    high: float | None = None
    form: str = ".3f"

    def text(self) -> str:
        if self.value is None:
            return "–"
        bounds = (
            "" if self.low is None or self.high is None else f" ({self.low:{self.form}} to {self.high:{self.form}})"
        )
        return f"{self.value:{self.form}}{bounds}"


@dataclass(frozen=True, slots=True)
class Run:
    """What an evaluation left: contestant -> its questions and columns."""

    name: str
    folder: Path
    questions: Mapping[str, Sequence[Mapping]]
    columns: Mapping[str, Mapping[str, float | None]]
    setup: Mapping[str, object]


def read_run(folder: Path, name: str) -> Run:
    """Raises UserError where no evaluation has ended there."""
    table = folder / "evaluation.json"
    columns = read_object(table)
    if not columns or not all(isinstance(metrics, dict) for metrics in columns.values()):
        raise UserError(f"{folder}: no evaluation has ended there ({table.name} is missing, or is not one)")
    questions = {row: read_lines(folder / f"questions-{row.replace(' ', '_')}.jsonl") for row in columns}
    return Run(name, folder, questions, columns, read_object(folder / SETUP) or {})


def write_tables(folders: Sequence[Path], files: Sequence[str], against: str = "") -> str:
    """Writes the table of these evaluations to every file, in the format of its ending; returns it as Markdown.

    against: the row that others are compared with; "" = the first. Raises UserError on unknown names and endings."""
    check_files(files)
    names = _run_names(folders)
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    header, rows = table_of(runs, against)
    notes = list(notes_of(runs, against or next(iter(rows))))
    writers: dict[str, Callable[..., str]] = {".md": markdown, ".csv": comma_separated, ".tex": latex}
    for file in files:
        write_atomically(Path(file), writers[Path(file).suffix](header, rows, notes))
    return markdown(header, rows, notes)


def check_files(files: Sequence[str]) -> None:
    """Raises UserError where one has an ending of no format."""
    wrong = [file for file in files if not file.endswith(SUFFIXES)]
    if wrong:
        raise UserError(f"--table={','.join(files)}: {wrong[0]} must end in {', '.join(SUFFIXES)}")


def _run_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or all of it where two are alike."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def table_of(runs: Sequence[Run], against: str = "") -> tuple[list[str], dict[str, list[Cell]]]:
    """(the columns' names, cells by row)."""
    found = {_row_name(run, row, runs): (run, row) for run in runs for row in run.questions}
    if against and against not in found:
        raise UserError(unknown(against, list(found), "row of --against:"))
    reference = against or next(iter(found))
    scores = {name: _by_question(run.questions[row]) for name, (run, row) in found.items()}
    by_row = {name: _by_episode(own) for name, own in scores.items()}
    sources = sorted({source for episodes in by_row.values() for _, source in episodes})
    asked = {name: _kinds(run.questions[row]) for name, (run, row) in found.items()}
    kinds = sorted({kind for by_kind in asked.values() for kind in by_kind})
    header = ["accuracy", f"against {reference}", "scored", "missing", *sources, *kinds, "calls", "tokens", "seconds"]
    rows = {}
    for name, (run, row) in found.items():
        columns, scored = run.columns[row], len(scores[name])
        rows[name] = [
            _mean(by_row[name]),
            Cell(None) if name == reference else _difference(scores[name], scores[reference]),
            Cell(scored, form=".0f"),
            Cell(len(run.questions[row]) - scored, form=".0f"),
            *(_mean({key: value for key, value in by_row[name].items() if key[1] == source}) for source in sources),
            *(_ratio(asked[name].get(kind, {})) for kind in kinds),
            Cell(_total(columns, _CALLS), form=".0f"),
            Cell(_total(columns, _TOKENS), form=".0f"),
            Cell(_seconds(run, row), form=".0f"),
        ]
    return header, rows


def _row_name(run: Run, row: str, runs: Sequence[Run]) -> str:
    return row if len(runs) == 1 else f"{run.name}: {row}"


_Means = Mapping[tuple[str, str], float]  # (episode, source) -> mean score of its questions


_Scores = Mapping[tuple[str, str, int], float]  # (episode, source, place among its questions) -> score


def _by_question(questions: Iterable[Mapping]) -> _Scores:
    """Of the questions that have a score."""
    asked: dict[tuple[str, str], int] = defaultdict(int)
    found = {}
    for question in questions:
        key = question["episode"], question["source"]
        if question["score"] is not None:
            found[*key, asked[key]] = question["score"]
        asked[key] += 1
    return found


def _by_episode(scores: _Scores) -> _Means:
    """Of the episodes with a question that has a score."""
    found = defaultdict(list)
    for (episode, source, _), score in scores.items():
        found[episode, source].append(score)
    return {key: float(np.mean(own)) for key, own in found.items()}


def _kinds(questions: Iterable[Mapping]) -> dict[str, dict[str, list[float]]]:
    """Kind -> episode -> the scores of its questions of that kind."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for question in questions:
        if question["kind"] and question["score"] is not None:
            found[question["kind"]][question["episode"]].append(question["score"])
    return found


def _mean(means: _Means) -> Cell:
    """Mean over sources of the mean over their episodes."""
    if not means:
        return Cell(None)
    sources = [source for _, source in means]
    values = list(means.values())
    low, high = bootstrap_interval(values, seed=_SEED, resamples=_RESAMPLES, sources=sources)
    by_source = [np.mean([v for v, s in zip(values, sources, strict=True) if s == source]) for source in set(sources)]
    return Cell(float(np.mean(by_source)), low, high)


def _difference(scores: _Scores, reference: _Scores) -> Cell:
    """The mean of sources of the differences over the questions that both have."""
    cell = _mean(_by_episode({key: scores[key] - reference[key] for key in scores if key in reference}))
    return Cell(cell.value, cell.low, cell.high, "+.3f")


def _ratio(by_episode: Mapping[str, Sequence[float]]) -> Cell:
    """Mean over questions, with an interval over episodes: those of one episode stand and fall together."""
    if not by_episode:
        return Cell(None)
    sums = np.array([sum(scores) for scores in by_episode.values()])  # [episodes]
    counts = np.array([len(scores) for scores in by_episode.values()])
    drawn = np.random.default_rng(_SEED).integers(len(sums), size=(_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return Cell(float(sums.sum() / counts.sum()), float(low), float(high))


def _total(columns: Mapping[str, float | None], names: Sequence[str]) -> float | None:
    found = [columns[name] for name in names if columns.get(name) is not None]
    return sum(value for value in found if value is not None) if found else None


def _seconds(run: Run, row: str) -> float | None:
    seconds = run.setup.get("seconds")
    found = seconds.get(row) if isinstance(seconds, Mapping) else None
    return float(found) if isinstance(found, int | float) else None


# --------------------------------------------------------------------------------------------------------------
# What stands below it
# --------------------------------------------------------------------------------------------------------------


def notes_of(runs: Sequence[Run], reference: str) -> Iterable[str]:
    """What the columns are, and of every run its command, its judge and the digests of its files."""
    yield (
        "accuracy: mean over sources of the mean over instances; in brackets 95 % bootstrap intervals over instances; "
        f"differences are paired over the questions that have a score in the row and in {reference}; missing: no "
        "answer, or a judge without a verdict; calls and tokens of the writing model and the answerer, seconds of "
        "playing"
    )
    for run in runs:
        yield f"{run.name}: {run.setup.get('command') or 'its command is not on record'}"
        if run.setup.get("judge"):
            yield f"{run.name}: {run.setup['judge']}"
        if run.setup.get("answerer"):
            yield f"{run.name}: {run.setup['answerer']}"
        files = run.setup.get("files")
        for file, found in (files if isinstance(files, Mapping) else {}).items():
            yield f"{run.name}: data {file} sha256 {found}"
        for path in sorted([run.folder / "evaluation.json", *run.folder.glob("questions-*.jsonl")]):
            yield f"{run.name}: {path.name} sha256 {digest(path)}"


def digest(path: Path) -> str:
    """sha256 of a file, read piece by piece."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


# --------------------------------------------------------------------------------------------------------------
# Formats
# --------------------------------------------------------------------------------------------------------------


def markdown(header: Sequence[str], rows: Mapping[str, Sequence[Cell]], notes: Sequence[str]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(printable(cell, one_line=True).replace("|", "\\|") for cell in cells) + " |"

    lines = [line(["", *header]), line(["---"] * (len(header) + 1))]
    lines += [line([name, *(cell.text() for cell in cells)]) for name, cells in rows.items()]
    return "\n".join([*lines, "", *(f"- {printable(note, one_line=True)}" for note in notes), ""])


def comma_separated(header: Sequence[str], rows: Mapping[str, Sequence[Cell]], notes: Sequence[str]) -> str:
    """Numbers in full, every interval in two columns of its own; the notes as lines that begin with "#"."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["row", *(f"{name}{part}" for name in header for part in ("", " low", " high"))])
    for name, cells in rows.items():
        numbers = [number for cell in cells for number in (cell.value, cell.low, cell.high)]
        writer.writerow([name, *("" if number is None else repr(float(number)) for number in numbers)])
    return content.getvalue() + "".join(f"# {printable(note, one_line=True)}\n" for note in notes)


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}


def latex(header: Sequence[str], rows: Mapping[str, Sequence[Cell]], notes: Sequence[str]) -> str:
    """A tabular; the notes as comments above it."""

    def line(cells: Iterable[str]) -> str:
        shown = (printable(cell, one_line=True) for cell in cells)
        return " & ".join("".join(_LATEX.get(sign, sign) for sign in cell) for cell in shown) + r" \\"

    comments = [f"% {printable(note, one_line=True)}" for note in notes]
    body = [line([name, *(cell.text() for cell in cells)]) for name, cells in rows.items()]
    begin = r"\begin{tabular}{l" + "r" * len(header) + "}"
    return "\n".join(
        [*comments, begin, r"\hline", line(["", *header]), r"\hline", *body, r"\hline", r"\end{tabular}", ""]
    )
