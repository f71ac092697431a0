"""The report of a run: one HTML file that opens from disk without a network, made from the run's records.

`write_report` gathers metrics, evaluations, times and rollouts into one JSON object in `assets/report/page.html`, and
the scripts beside it draw it. All texts are written once, in `strings`, and named by their index. Rollouts that do not
fit the budget are sampled evenly, and the page says so.
"""

from __future__ import annotations

import html
import json
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.evaluation.intervals import bootstrap_interval
from finemem_jax.evaluation.paired import HELDOUT_SCORES, paired_differences, read_scores
from finemem_jax.evaluation.records import HELDOUT
from finemem_jax.files import (
    Expected,
    has_step,
    holds_numbers,
    is_evaluation,
    is_number,
    parse_line,
    scan,
    write_atomically,
)
from finemem_jax.reporting import charts, tables
from finemem_jax.reporting.compact import HeldOut, Notes, Strings, read_bytes, training_groups
from finemem_jax.reporting.credit import TERM, evidence_rules

GENERATOR = b'<meta name="generator" content="finemem report">'  # of every page: what a page may replace
MAX_BYTES = 20_000_000  # of the file
BUDGET = 60_000_000  # bytes of rollout records to begin with; lowered until the file is small enough
_SCRIPTS = ("base", "charts", "summary", "picture", "episode", "explorer", "start")  # in the order they need each other
_METRICS = ("metrics", "sft_metrics")


def write_report(workdir: Path, out: Path | None = None) -> Path:
    """Writes WORKDIR/report.html (or `out`) and returns its path. Raises UserError when there is no run, or when `out`
    is a file that is no report."""
    check_run(workdir)
    return write_page(out or workdir / "report.html", lambda budget: report_data(workdir, budget))


def runs_of_sweep(folder: Path) -> dict[str, list[Path]]:
    """The runs of a sweep's folder by row; empty where it is none."""
    found: dict[str, list[Path]] = {}
    for config in sorted(folder.glob("*/seed-*/config.json")) if not (folder / "config.json").exists() else ():
        found.setdefault(config.parent.parent.name, []).append(config.parent)
    return found


def is_several(workdirs: Sequence[Path]) -> bool:
    """Whether these are more than one run: several folders, or that of a sweep."""
    return len(workdirs) > 1 or bool(runs_of_sweep(workdirs[0]))


def check_run(workdir: Path) -> None:
    """Raises UserError where there is no run."""
    if not (workdir / "config.json").is_file() and not (workdir / "evaluation.json").is_file():
        raise UserError(f"no run in {workdir}: neither config.json nor evaluation.json is there")


def write_page(out: Path, data: Any) -> Path:
    """Writes the page of `data(budget)`, which is small enough for some budget of bytes; returns its path."""
    if out.exists() and GENERATOR not in out.read_bytes()[:1000]:
        raise UserError(f"--out={out}: a file that is no report is there; choose another place")
    write_atomically(out, fitting_page(data))
    return out


def fitting_page(data: Any, **follow: Any) -> str:
    budget, size, page = BUDGET, MAX_BYTES + 1, ""
    while size > MAX_BYTES and budget > 1000:
        page = page_of({**data(budget), **follow})
        size = len(page.encode("utf-8", "backslashreplace"))
        budget = int(budget * 0.9 * MAX_BYTES / size)
    return page


def write_run_figures(workdir: Path, folder: Path) -> list[Path]:
    """The curves of the report as PNG, SVG and CSV files in `folder`; returns the PNG files."""
    from finemem_jax.reporting.plots import write_figures  # matplotlib takes a second

    return write_figures(folder, report_data(workdir, 0)["charts"])


def page_of(data: Mapping) -> str:
    """The page; where it follows a run it may ask its own server, otherwise nobody."""
    folder = resources.files("finemem_jax") / "assets" / "report"
    script = "\n".join((folder / f"{name}.js").read_text("utf-8") for name in _SCRIPTS)
    style, page = ((folder / name).read_text("utf-8") for name in ("style.css", "page.html"))
    text = dumped(data).replace("<", "\\u003c")
    # Inside a script element only "<" could end it; in JSON a "<" stands in strings alone, where it may be escaped.
    connect = "; connect-src 'self'" if data.get("follow") else ""
    return string.Template(page).substitute(
        title=html.escape(data["name"]), style=style, script=script, data=text, connect=connect
    )


def dumped(data: Mapping) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def report_data(workdir: Path, budget: int) -> dict:
    """Everything the page shows. budget: bytes of rollout records that may be taken in."""
    notes = Notes()
    cfg = read_object(workdir / "config.json", notes)
    metrics = [line for name in _METRICS for line in read_log(workdir / f"{name}.jsonl", holds_numbers, notes)]
    timings = read_log(workdir / "timings.jsonl", holds_numbers, notes)
    evaluations: Sequence[Mapping] = read_evaluations(workdir, notes)
    results = read_results(workdir / "results.json", notes) or read_results(workdir / "evaluation.json", notes)
    results = _with_intervals(results or _latest(evaluations), evaluations)
    weights = {k: v for k, v in _at(cfg, "rewards", "weights", default={}).items() if is_number(v) and v}
    held_out, strings, rules = HeldOut(workdir / HELDOUT), Strings(), evidence_rules(cfg)
    recorded = held_out.scored()
    evaluations = _with_recorded(evaluations, results, recorded)
    measures, absent = tables.measures_of(cfg)
    if absent:
        notes.texts.append(f"Not shown: what the measures {', '.join(absent)} say; they are not here (--plugins).")
    colors = charts.term_colors(list(weights), metrics)
    groups = held_out.groups(budget * 2 // 3, rules, strings, notes)
    groups += training_groups(workdir / "rollouts.jsonl", budget // 3, list(weights), rules, strings, notes)
    notes.texts += _alarms(read_log(workdir / "alarms.jsonl", has_step, notes))
    return {
        "name": _at(cfg, "name", default=workdir.resolve().name),
        "kicker": "finemem run",
        "verdict": charts.verdict(results, _gains(workdir, notes)),
        "facts": _facts(cfg, metrics, is_imitation=not (workdir / "metrics.jsonl").exists()),
        "notes": notes.texts,
        "tables": tables.results_tables(results, measures, recorded),
        "interval_note": tables.NOTE,
        "causes": tables.cause_rows(recorded),
        "charts": charts.run_charts(metrics, timings, evaluations, results, colors),
        "phases": charts.phases(timings),
        "terms": list(weights),
        "weights": list(weights.values()),
        "colors": colors,
        "flow": {
            "shared": rules.update_credit == "shared",
            "training": _paid(rules.attribution, TERM in weights),
            "held_out": "Nothing is rewarded here: it is what the steps would be paid, all items retrieved alike.",
        },
        "runs": [],
        "config": cfg,
        "groups": groups,
        "strings": strings.texts,
    }


_ATTRIBUTIONS = {
    "retrieved": "Paid are all items that were retrieved for a question, alike.",
    "cited": "Paid are the items that the answer said it stands in.",
    "leave_one_out": "Paid are the items without which the answer is worse.",
    "shapley": "Paid are the items by their Shapley value; one that misleads is paid less than nothing.",
}


def _paid(attribution: str, is_term: bool) -> str:
    said = _ATTRIBUTIONS.get(attribution, "")
    return said if is_term else f"{said} Evidence has no weight in this run: it is what it would have paid."


# --------------------------------------------------------------------------------------------------------------
# Reading a run's folder
# --------------------------------------------------------------------------------------------------------------


def read_evaluations(workdir: Path, notes: Notes) -> list[dict]:
    """The lines of evaluations.jsonl, each with the 95 % interval of its accuracy (low, high) where the scores of its
    episodes are known."""
    known = {
        (line["step"], line.get("policy")): scores
        for line in read_log(workdir / HELDOUT_SCORES, has_step, notes)
        if (scores := read_scores(line)) is not None
    }
    lines = []
    for line in read_log(workdir / "evaluations.jsonl", is_evaluation, notes):
        found = known.get((line["step"], line["policy"]))
        if found is not None and "low" not in line and line["accuracy"] is not None:
            answered = [(x, s) for x, s in zip(found.scores, found.sources, strict=True) if x is not None]
            low, high = bootstrap_interval([x for x, _ in answered], seed=0, sources=[s for _, s in answered])
            line = {**line, "low": low, "high": high}
        lines.append(line)
    return lines


def _with_intervals(results: Mapping[str, Mapping], evaluations: Sequence[Mapping]) -> dict[str, Mapping]:
    """The results, with the intervals of the evaluations that they are of."""
    found = {}
    for name, row in results.items():
        when, _, policy = name.partition(" ")
        own = [line for line in evaluations if line["policy"] == policy and "low" in line]
        line = own[0 if when == "before" else -1] if own and when in ("before", "after") else {}
        same = row["accuracy"] is not None and line and abs(line["accuracy"] - row["accuracy"]) < 1e-6
        found[name] = {**row, "low": line["low"], "high": line["high"]} if same and "low" not in row else row
    return found


def _with_recorded(
    evaluations: Sequence[Mapping], results: Mapping[str, Mapping], recorded: Mapping[str, Sequence[tables.Scored]]
) -> list[Mapping]:
    """The evaluations; those without an interval have that of the held-out records, where these are of them."""
    found = {}
    for name, row in results.items():
        when, _, policy = name.partition(" ")
        sure = tables.intervals(row, recorded.get(tables.stem(name), ())).get("accuracy")
        if sure is not None and when in ("before", "after"):
            found[policy, round(row["accuracy"], 6)] = dict(zip(("low", "high"), sure, strict=True))
    return [{**found.get((e["policy"], round(e["accuracy"] or 0.0, 6)), {}), **e} for e in evaluations]


def _gains(workdir: Path, notes: Notes) -> dict[str, tuple[float, float]]:
    """Of each policy the 95 % interval of what it gained since the first evaluation, by held-out episode."""
    scores: dict[str, list] = {}
    for line in read_log(workdir / HELDOUT_SCORES, has_step, notes):
        scores.setdefault(str(line.get("policy")), []).append(read_scores(line))
    found = {}
    for policy, of_steps in scores.items():
        differences = paired_differences(of_steps[0], of_steps[-1]) if len(of_steps) > 1 else {}
        values = [value for by_source in differences.values() for value in by_source]
        sources = [source for source, by_source in differences.items() for _ in by_source]
        if values:
            found[policy] = bootstrap_interval(values, seed=0, sources=sources)
    return found


def _facts(cfg: Mapping, metrics: Sequence[Mapping], *, is_imitation: bool) -> list[tuple[str, str]]:
    if not cfg:
        return []
    model = _at(cfg, "model", "path") or f"{_at(cfg, 'model', 'family')} {_at(cfg, 'model', 'preset')}, random"
    facts = [("task", _at(cfg, "data", "name")), ("policy", model), ("seed", _at(cfg, "seed"))]
    if is_imitation and metrics:
        return [*facts, ("steps of imitation", str(len(metrics)))]
    return [
        *facts,
        ("steps", f"{len(metrics)} of {_at(cfg, 'train', 'steps')}"),
        ("rollouts a step", f"{_at(cfg, 'train', 'episodes')} episodes × {_at(cfg, 'train', 'group_size')}"),
    ]


def _at(tree: Any, *names: str, default: Any = "") -> Any:
    """A setting of a stored config as text (or a group of settings, where the default is one); the default where it is
    not there, as in a config of other code."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    if isinstance(default, Mapping):
        return tree if isinstance(tree, Mapping) else default
    return default if tree is None else str(tree)


def _alarms(lines: Sequence[Mapping]) -> list[str]:
    return [f"{len(lines)} alarms were raised; the first at step {lines[0]['step']}."] if lines else []


def _latest(evaluations: Sequence[Mapping]) -> dict[str, Mapping]:
    """Of a run that has not ended: the first evaluation and the newest."""
    if not evaluations:
        return {}
    last = max(line["step"] for line in evaluations)
    table = {f"before {line['policy']}": line for line in evaluations if line["step"] == 0}
    return table | {f"after {line['policy']}": line for line in evaluations if line["step"] == last > 0}


def read_results(path: Path, notes: Notes) -> dict[str, Mapping]:
    """Of each policy and baseline its metrics; those without are left out. One that got no answer has no accuracy."""
    table = read_object(path, notes)
    found = {name: row for name, row in table.items() if isinstance(row, dict) and _has_accuracy(row)}
    if len(found) < len(table):
        notes.damaged(path, f"{len(table) - len(found)} of {len(table)} rows")
    return {name: {k: v for k, v in row.items() if is_number(v) or k == "accuracy"} for name, row in found.items()}


def _has_accuracy(row: Mapping[str, object]) -> bool:
    return "accuracy" in row and (row["accuracy"] is None or is_number(row["accuracy"]))


def read_object(path: Path, notes: Notes) -> dict:
    """The JSON object in a file, empty where there is none."""
    if not path.exists():
        return {}
    found = parse_line(read_bytes(path))
    if found is None:
        notes.damaged(path)
    return found or {}


def read_log(path: Path, expected: Expected, notes: Notes) -> list[dict]:
    if not path.exists():
        return []
    try:
        found = scan(path, expected)
    except OSError:
        notes.damaged(path)
        return []
    if found.damaged:
        notes.damaged(path, f"{len(found.damaged)} of {len(found.damaged) + len(found.records)} lines")
    return found.records
