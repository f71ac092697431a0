"""Several runs on one page: their curves over each other and their results beside each other.

What is compared are rows: a run by itself, or the seeds of a config of a sweep, whose mean is drawn with a 95 %
interval by Student's t. The interval of a single run is that of its held-out episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finemem_jax.config import UserError
from finemem_jax.files import holds_numbers, is_number
from finemem_jax.reporting import charts
from finemem_jax.reporting.compact import Notes
from finemem_jax.reporting.report import (
    check_run,
    read_evaluations,
    read_log,
    read_object,
    read_results,
    runs_of_sweep,
    write_page,
)
from finemem_jax.reporting.sweep_table import MIN_SEEDS, Column, Row, baseline_rows, columns, mean_interval
from finemem_jax.reporting.words import words

_MAIN = ("reward/", "accuracy", "memory_tokens", "valid_operations", "loss/grad_norm")  # curves shown at once


@dataclass(frozen=True, slots=True)
class Logged:
    """The records of the runs of a row, one of each per run."""

    name: str
    seeds: tuple[int, ...]
    metrics: Sequence[list[dict]]
    evaluations: Sequence[list[dict]]
    results: Sequence[Mapping[str, Mapping]]  # of those that have ended
    cfg: Mapping[str, Any]  # of the first


def write_overlay(workdirs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page (default: report.html in a sweep's folder, comparison.html beside the first of several runs) and
    returns its path. Raises UserError where a folder is neither a run nor a sweep."""
    place = workdirs[0] / "report.html" if len(workdirs) == 1 else workdirs[0].resolve().parent / "comparison.html"
    rows, notes = read_rows(workdirs)
    data = overlay_data(" and ".join(folder.resolve().name for folder in workdirs), rows, notes)
    return write_page(out or place, lambda budget: data)


def read_rows(workdirs: Sequence[Path]) -> tuple[list[Logged], Notes]:
    notes, rows = Notes(), []
    for folder in workdirs:
        of_sweep = runs_of_sweep(folder)
        if not of_sweep:
            check_run(folder)
        for name, runs in (of_sweep or {folder.resolve().name: [folder]}).items():
            rows.append(_read_row(name, runs, notes))
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--workdir: two rows are called {', '.join(twice)}; give folders of different names")
    return rows, notes


def _read_row(name: str, runs: Sequence[Path], notes: Notes) -> Logged:
    results = [read_results(run / "results.json", notes) for run in runs]
    configs = [read_object(run / "config.json", notes) for run in runs]
    return Logged(
        name,
        tuple(seed if isinstance(seed := cfg.get("seed"), int) else number for number, cfg in enumerate(configs)),
        [read_log(run / "metrics.jsonl", holds_numbers, notes) for run in runs],
        [read_evaluations(run, notes) for run in runs],
        [found for found in results if found],
        configs[0],
    )


def overlay_data(name: str, rows: Sequence[Logged], notes: Notes) -> dict:
    """What the page shows, in the form of `report.report_data`, without episodes."""
    few = [row.name for row in rows if 1 < len(row.seeds) < MIN_SEEDS]
    if few:
        notes.texts.append(f"Without an interval, which needs {MIN_SEEDS} seeds: {', '.join(few)}.")
    absent = [f"{row.name} ({len(row.seeds) - len(row.results)})" for row in rows if len(row.results) < len(row.seeds)]
    if absent:
        notes.texts.append(f"Runs that have not ended, and are in curves alone: {', '.join(absent)}.")
    return {
        "name": name,
        "kicker": "finemem runs, compared",
        "verdict": "",
        "facts": [(row.name, f"{len(row.seeds)} seeds" if len(row.seeds) > 1 else "one run") for row in rows],
        "notes": notes.texts,
        "tables": _tables(rows),
        "interval_note": "Small: 95 % intervals, by Student's t over seeds; of a single run by bootstrap over its "
        "held-out episodes.",
        "causes": [],
        "charts": _charts(rows),
        "phases": [],
        "terms": [],
        "weights": [],
        "colors": {},
        "flow": {"shared": False, "training": "", "held_out": ""},
        "runs": [row.name for row in rows],
        "config": {row.name: row.cfg for row in rows},
        "groups": [],
        "strings": [],
    }


def _tables(rows: Sequence[Logged]) -> list[dict]:
    trained = [Row(row.name, row.seeds, _values(row.results), ()) for row in rows if row.results]
    shown = [*trained, *baseline_rows(trained)]
    chosen = columns(shown)
    tables = []
    for title in dict.fromkeys(column.table for column in chosen):
        own = [column for column in chosen if column.table == title]
        made = []
        for row in shown:
            single = next((r for r in rows if r.name == row.name and len(r.seeds) == 1), None)
            cells = [_cell(column, row, single) for column in own]
            made.append(
                {
                    "name": row.name,
                    "when": "baseline" if row not in trained else "run",
                    "values": [value for value, _ in cells],
                    "intervals": [sure for _, sure in cells],
                }
            )
        tables.append(
            {
                "title": f"Held-out, {title}",
                "columns": [column.title for column in own],
                "logged": [f"{column.metric}, {column.policy}" for column in own],
                "digits": [column.digits for column in own],
                "rows": [row for row in made if any(value is not None for value in row["values"])],
            }
        )
    return tables


def _cell(column: Column, row: Row, single: Logged | None) -> tuple[float | None, list[float] | None]:
    values = column.values(row)
    if not values:
        return None, None
    mean, half = mean_interval(values)
    if not np.isnan(half):
        return mean, [mean - half, mean + half]
    if single is None or column.minus or column.metric != "accuracy":
        return mean, None
    policy = column.policy.rpartition(" ")[2]
    for line in single.evaluations[0]:
        if line["policy"] == policy and "low" in line and abs(line["accuracy"] - mean) < 1e-6:
            return mean, [line["low"], line["high"]]
    return mean, None


def _values(results: Sequence[Mapping[str, Mapping]]) -> dict[str, dict[str, list[float]]]:
    """policy -> metric -> one value per seed, where every seed has one."""
    return {
        policy: {
            metric: [float(result[policy][metric]) for result in results]
            for metric in row
            if all(is_number(result.get(policy, {}).get(metric)) for result in results)
        }
        for policy, row in results[0].items()
    }


def _charts(rows: Sequence[Logged]) -> list[dict]:
    found = []
    policies = dict.fromkeys(line["policy"] for row in rows for lines in row.evaluations for line in lines)
    for policy in policies:
        series = []
        for i, row in enumerate(rows):
            own = [[line for line in lines if line["policy"] == policy] for lines in row.evaluations]
            series.append(_series(row.name, own, "accuracy", i))
        note = "With 95 % intervals, over seeds or, of a single run, over its episodes."
        found.append(_chart(f"Held-out accuracy, {policy}", series, note, "accuracy in evaluations.jsonl", (0.0, 1.0)))
    names = dict.fromkeys(
        name
        for row in rows
        for lines in row.metrics
        for line in lines
        for name in line
        if name not in ("step", "accuracy_low", "accuracy_high")
    )
    for name in sorted(names, key=lambda name: not name.startswith(_MAIN)):
        series = [_series(row.name, row.metrics, name, i) for i, row in enumerate(rows)]
        title = "Accuracy in training" if name == "accuracy" else words(name)
        found.append(_chart(title, series, "", f"{name} in metrics.jsonl", None, more=not name.startswith(_MAIN)))
    return found


def _chart(title: str, series: list[dict], note: str, logged: str, bounds: Any, *, more: bool = False) -> dict:
    series = [line for line in series if line["x"]]
    return {"title": title, "note": note, "logged": logged, "range": bounds, "more": more, "series": series}


def _series(name: str, runs: Sequence[Sequence[Mapping]], metric: str, color: int) -> dict:
    """The mean over the runs that have the metric at a step, with the interval over them; of a single run its own."""
    at: dict[int, list[Mapping]] = {}
    for lines in runs:
        for line in lines:
            if is_number(line.get(metric)):
                at.setdefault(line["step"], []).append(line)
    steps = sorted(at)
    if len(steps) > charts.MAX_POINTS:
        steps = [steps[round(i * (len(steps) - 1) / (charts.MAX_POINTS - 1))] for i in range(charts.MAX_POINTS)]
    found: dict[str, Any] = {"name": name, "x": steps, "y": [], "dash": False, "color": color}
    low: list[float | None] = []
    high: list[float | None] = []
    for step in steps:
        mean, half = mean_interval([line[metric] for line in at[step]])
        line = at[step][0] if len(runs) == 1 and metric == "accuracy" else {}
        found["y"].append(mean)
        sure = [line.get(bound, line.get(f"accuracy_{bound}")) for bound in ("low", "high")]
        low.append(sure[0] if np.isnan(half) else mean - half)
        high.append(sure[1] if np.isnan(half) else mean + half)
    return found | ({"low": low, "high": high} if any(value is not None for value in low) else {})
