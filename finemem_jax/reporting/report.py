"""The report of a run: one HTML file that opens from disk without a network, made from the run's records.

`write_report` gathers metrics, evaluations, times and rollouts into one JSON object in `assets/report/page.html`, and
`view.js` draws it. All texts are written once, in `strings`, and named by their index. Rollouts that do not fit the
budget are sampled evenly, and the page says so.
"""

from __future__ import annotations

import html
import json
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.evaluation.records import EPISODES, HELDOUT
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
from finemem_jax.reporting import charts

GENERATOR = b'<meta name="generator" content="finemem report">'  # of every page: what a page may replace
MAX_BYTES = 20_000_000  # of the file
_BUDGET = 60_000_000  # bytes of rollout records to begin with; lowered until the file is small enough


def write_report(workdir: Path, out: Path | None = None) -> Path:
    """Writes WORKDIR/report.html (or `out`) and returns its path. Raises UserError when there is no run, or when `out`
    is a file that is no report."""
    if out is not None and out.exists() and GENERATOR not in out.read_bytes()[:1000]:
        raise UserError(f"--out={out}: a file that is no report is there; choose another place")
    out = out or workdir / "report.html"
    if not (workdir / "config.json").is_file() and not (workdir / "evaluation.json").is_file():
        raise UserError(f"no run in {workdir}: neither config.json nor evaluation.json is there")
    budget, size = _BUDGET, MAX_BYTES + 1
    while size > MAX_BYTES and budget > 1000:
        page = _page(report_data(workdir, budget))
        size = len(page.encode("utf-8", "backslashreplace"))
        budget = int(budget * 0.9 * MAX_BYTES / size)
    write_atomically(out, page)
    return out


def write_run_figures(workdir: Path, folder: Path) -> list[Path]:
    """The curves of the report as PNG, SVG and CSV files in `folder`; returns the PNG files."""
    from finemem_jax.reporting.plots import write_figures  # matplotlib takes a second

    return write_figures(folder, report_data(workdir, 0)["charts"])


def _page(data: Mapping) -> str:
    folder = resources.files("finemem_jax") / "assets" / "report"
    style, script, page = ((folder / name).read_text("utf-8") for name in ("style.css", "view.js", "page.html"))
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Inside a script element only "<" could end it; in JSON a "<" stands in strings alone, where it may be escaped.
    text = text.replace("<", "\\u003c")
    return string.Template(page).substitute(title=html.escape(data["name"]), style=style, script=script, data=text)


def report_data(workdir: Path, budget: int) -> dict:
    """Everything the page shows. budget: bytes of rollout records that may be taken in."""
    notes = Notes()
    cfg = _object(workdir / "config.json", notes)
    metrics, timings = (_lines(workdir / f"{name}.jsonl", holds_numbers, notes) for name in ("metrics", "timings"))
    evaluations = _lines(workdir / "evaluations.jsonl", is_evaluation, notes)
    results = _results(workdir / "results.json", notes) or _results(workdir / "evaluation.json", notes)
    results = results or _latest(evaluations)
    table = charts.results_table(results)
    weights = {k: v for k, v in _at(cfg, "rewards", "weights", default={}).items() if is_number(v) and v}
    strings = Strings()
    held_out = heldout_groups(workdir / HELDOUT, budget * 2 // 3, strings, notes)
    trained = training_groups(workdir / "rollouts.jsonl", budget // 3, list(weights), strings, notes)
    notes.texts += _alarms(_lines(workdir / "alarms.jsonl", has_step, notes))
    return {
        "name": _at(cfg, "name", default=workdir.resolve().name),
        "verdict": charts.verdict(results),
        "facts": _facts(cfg, metrics),
        "notes": notes.texts,
        "table": table,
        "charts": charts.run_charts(metrics, timings, evaluations, results),
        "phases": charts.phases(timings),
        "terms": list(weights),
        "weights": list(weights.values()),
        "config": cfg,
        "groups": held_out + trained,
        "strings": strings.texts,
    }


class Notes:
    """What the reader of the page must know of it: what was left out, and what could not be read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def damaged(self, path: Path, what: str = "the file") -> None:
        self.texts.append(f"Damaged: {what} of {path.name} cannot be read and is left out.")

    def left_out(self, what: str, shown: int, there: int) -> None:
        if shown < there:
            self.texts.append(f"Sampled: {shown:,} of {there:,} {what} are in this file, evenly spaced.")


class Strings:
    """Texts by index, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index: dict[str, int] = {}

    def __call__(self, text: object) -> int:
        text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
        if text not in self._index:
            self._index[text] = len(self.texts)
            self.texts.append(text)
        return self._index[text]


# --------------------------------------------------------------------------------------------------------------
# Rollouts, compact. The order of the fields is view.js's.
# --------------------------------------------------------------------------------------------------------------


def heldout_groups(folder: Path, budget: int, strings: Strings, notes: Notes) -> list:
    """One group per held-out episode, its columns the policies and the baselines."""
    episodes = _raw_lines(folder / EPISODES)
    order = {"before": 0, "after": 1, "baseline": 2}
    files = sorted(folder.glob("* *.jsonl"), key=lambda f: (order.get(f.stem.split(" ")[0], 3), f.stem))
    columns = {file: _raw_lines(file) for file in files}
    sizes = [len(line) + sum(len(c[i]) for c in columns.values() if i < len(c)) for i, line in enumerate(episodes)]
    chosen = evenly(sizes, budget)
    groups, unread = [], Counter()
    for i in chosen:
        episode = _compacted(episodes[i], lambda record: compact_group(None, record, [], strings))
        if episode is None:
            unread[folder / EPISODES] += 1
            continue
        for file, lines in columns.items():
            of_episode = partial(_columns, file.stem, episode=episode[1], strings=strings)
            found = _compacted(lines[i], of_episode) if i < len(lines) else []
            unread[file] += found is None
            episode[-1].extend(found or [])
        groups.append(episode)
    for path, count in unread.items():
        if count:
            notes.damaged(path, f"{count} of {len(chosen)} records")
    notes.left_out("held-out episodes", len(chosen), len(episodes))
    return groups


def _columns(name: str, record: Mapping, *, episode: int, strings: Strings) -> list:
    """The samples of a policy's record, if it is of this episode."""
    if strings(record["episode"]) != episode:
        return []
    return [compact_sample(name, sample, (), strings) for sample in record["samples"]]


def training_groups(path: Path, budget: int, terms: Sequence[str], strings: Strings, notes: Notes) -> list:
    """One group per recorded group of training rollouts, its columns the samples."""

    def compact(record: Mapping) -> list:
        samples = [compact_sample(f"sample {s['sample']}", s, terms, strings) for s in record["samples"]]
        return compact_group(_number(record["step"]), record, samples, strings)

    lines = _raw_lines(path)
    chosen = evenly([len(line) for line in lines], budget)
    groups = [group for i in chosen if (group := _compacted(lines[i], compact)) is not None]
    if len(groups) < len(chosen):
        notes.damaged(path, f"{len(chosen) - len(groups)} of {len(chosen)} records")
    notes.left_out("recorded training groups", len(chosen), len(lines))
    return groups


def _compacted(line: bytes, compact: Callable[[Mapping], list]) -> list | None:
    """What `compact` makes of a line's record; None of one that is damaged, however its content is not as expected."""
    record = parse_line(line)
    try:
        return None if record is None else compact(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _numbers(values: Any) -> list | None:
    return None if values is None else [_number(value) for value in values]


def _number(value: Any) -> float | None:
    """The value, where the page needs a number."""
    if value is None or is_number(value):
        return value
    raise TypeError(f"not a number: {value!r}")


def compact_group(step: int | None, episode: Mapping, samples: list, strings: Strings) -> list:
    chunks = [strings(chunk) for chunk in episode["chunks"]]
    return [step, strings(episode["episode"]), strings(episode["source"]), chunks, samples]


def compact_sample(label: str, sample: Mapping, terms: Sequence[str], strings: Strings) -> list:
    rewards = sample.get("rewards", {})
    rewards = [_numbers(rewards.get(name)) for name in terms] if rewards else 0
    scored = [rewards, _numbers(sample["total"]), _numbers(sample["advantage"])] if rewards else [0, 0, 0]
    return [
        strings(label),
        [compact_step(step, strings) for step in sample["steps"]],
        [compact_answer(answer, strings) for answer in sample["answers"]],
        *scored,
    ]


def compact_step(step: Mapping, strings: Strings) -> list:
    operations = [
        [
            strings(o["name"]),
            [[strings(key), strings(value)] for key, value in o["arguments"].items()],
            strings(o["status"]),
            int(o["ok"]),
            strings(o["item"]) if o["item"] else None,
            [strings(item) for item in o["evicted"]],
        ]
        for o in step["operations"]
    ]
    written = [[strings(w["id"]), _number(w["step"]), strings(w["text"])] for w in step["written"]]
    removed = [strings(item) for item in step["removed"]]
    is_cut = int(step["finish"] == "length")
    return [strings(step["text"]), is_cut, operations, removed, written, _number(step["memory_tokens"])]


def compact_answer(answer: Mapping, strings: Strings) -> list:
    return [
        _number(answer["step"]),
        strings(answer["question"]),
        strings(answer["kind"]),
        [strings(gold) for gold in answer["gold"]],
        strings(answer["answer"]),
        _number(answer["score"]),
        strings(answer.get("failure") or ""),
        [[strings(r["id"]), _number(r["step"]), strings(r["text"]), _number(r["bm25"])] for r in answer["retrieved"]],
    ]


def evenly(sizes: Sequence[int], budget: int) -> list[int]:
    """Indices, evenly spaced from first to last, as many as fit the budget; at least one."""
    count = len(sizes)
    while count > 1:
        chosen = [round(i * (len(sizes) - 1) / (count - 1)) for i in range(count)]
        if sum(sizes[i] for i in chosen) <= budget:
            return chosen
        count = min(count - 1, int(count * 0.95))
    return list(range(min(len(sizes), 1)))


# --------------------------------------------------------------------------------------------------------------
# Reading a run's folder
# --------------------------------------------------------------------------------------------------------------


def _facts(cfg: Mapping, metrics: Sequence[Mapping]) -> list[tuple[str, str]]:
    if not cfg:
        return []
    model = _at(cfg, "model", "path") or f"{_at(cfg, 'model', 'family')} {_at(cfg, 'model', 'preset')}, random"
    return [
        ("task", _at(cfg, "data", "name")),
        ("policy", model),
        ("seed", _at(cfg, "seed")),
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


def _results(path: Path, notes: Notes) -> dict[str, Mapping]:
    """Of each policy and baseline its metrics; those without are left out. One that got no answer has no accuracy."""
    table = _object(path, notes)
    found = {name: row for name, row in table.items() if isinstance(row, dict) and _has_accuracy(row)}
    if len(found) < len(table):
        notes.damaged(path, f"{len(table) - len(found)} of {len(table)} rows")
    return {name: {k: v for k, v in row.items() if is_number(v) or k == "accuracy"} for name, row in found.items()}


def _has_accuracy(row: Mapping[str, object]) -> bool:
    return "accuracy" in row and (row["accuracy"] is None or is_number(row["accuracy"]))


def _object(path: Path, notes: Notes) -> dict:
    """The JSON object in a file, empty where there is none."""
    if not path.exists():
        return {}
    found = parse_line(_bytes(path))
    if found is None:
        notes.damaged(path)
    return found or {}


def _lines(path: Path, expected: Expected, notes: Notes) -> list[dict]:
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


def _raw_lines(path: Path) -> list[bytes]:
    """Whole lines; a half-written last one is left out."""
    return _bytes(path).split(b"\n")[:-1]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
