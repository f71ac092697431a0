"""The report of a run: one HTML file that opens from disk without a network, made from the run's records.

`write_report` gathers metrics, evaluations, times and rollouts into one JSON object in `assets/report/page.html`, and
`view.js` draws it. All texts are written once, in `strings`, and named by their index. Rollouts that do not fit the
budget are sampled evenly, and the page says so.
"""

from __future__ import annotations

import html
import json
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from finemem_jax.config import UserError
from finemem_jax.files import read_lines, write_atomically
from finemem_jax.reporting import charts
from finemem_jax.reporting.rollout_records import EPISODES, HELDOUT

MAX_BYTES = 20_000_000  # of the file
_BUDGET = 60_000_000  # bytes of rollout records to begin with; lowered until the file is small enough


def write_report(workdir: Path, out: Path | None = None) -> Path:
    """Writes WORKDIR/report.html (or `out`) and returns its path. Raises UserError when there is no run."""
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
    cfg = _json(workdir / "config.json")
    metrics, timings, evaluations = (
        _lines(workdir / f"{name}.jsonl") for name in ("metrics", "timings", "evaluations")
    )
    results = _json(workdir / "results.json") or _json(workdir / "evaluation.json") or _latest(evaluations)
    table = charts.results_table(results)
    weights = {k: v for k, v in cfg.get("rewards", {}).get("weights", {}).items() if v}
    strings = Strings()
    held_out, held_out_note = heldout_groups(workdir / HELDOUT, budget * 2 // 3, strings)
    trained, trained_note = training_groups(workdir / "rollouts.jsonl", budget // 3, list(weights), strings)
    return {
        "name": cfg.get("name", workdir.resolve().name),
        "verdict": charts.verdict(results),
        "facts": _facts(cfg, metrics),
        "notes": [note for note in (held_out_note, trained_note, *_alarms(workdir)) if note],
        "table": table,
        "charts": charts.run_charts(metrics, timings, evaluations, results),
        "phases": charts.phases(timings),
        "terms": list(weights),
        "weights": list(weights.values()),
        "config": cfg,
        "groups": held_out + trained,
        "strings": strings.texts,
    }


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


def heldout_groups(folder: Path, budget: int, strings: Strings) -> tuple[list, str]:
    """One group per held-out episode, its columns the policies and the baselines; and what was left out."""
    if not (folder / EPISODES).is_file():
        return [], ""
    episodes = _raw_lines(folder / EPISODES)
    order = {"before": 0, "after": 1, "baseline": 2}
    files = sorted(folder.glob("* *.jsonl"), key=lambda f: (order.get(f.stem.split(" ")[0], 3), f.stem))
    columns = {file.stem: _raw_lines(file) for file in files}
    sizes = [len(line) + sum(len(c[i]) for c in columns.values() if i < len(c)) for i, line in enumerate(episodes)]
    chosen = evenly(sizes, budget)
    groups = []
    for i in chosen:
        episode = json.loads(episodes[i])
        samples = []
        for name, lines in columns.items():
            record = json.loads(lines[i]) if i < len(lines) else {}
            if record.get("episode") == episode["episode"]:
                samples += [compact_sample(name, sample, (), strings) for sample in record["samples"]]
        groups.append(compact_group(None, episode, samples, strings))
    return groups, _left_out("held-out episodes", len(chosen), len(episodes))


def training_groups(path: Path, budget: int, terms: Sequence[str], strings: Strings) -> tuple[list, str]:
    """One group per recorded group of training rollouts, its columns the samples; and what was left out."""
    if not path.is_file():
        return [], ""
    lines = _raw_lines(path)
    chosen = evenly([len(line) for line in lines], budget)
    groups = []
    for record in (json.loads(lines[i]) for i in chosen):
        samples = [compact_sample(f"sample {s['sample']}", s, terms, strings) for s in record["samples"]]
        groups.append(compact_group(record["step"], record, samples, strings))
    return groups, _left_out("recorded training groups", len(chosen), len(lines))


def compact_group(step: int | None, episode: Mapping, samples: list, strings: Strings) -> list:
    chunks = [strings(chunk) for chunk in episode["chunks"]]
    return [step, strings(episode["episode"]), strings(episode["source"]), chunks, samples]


def compact_sample(label: str, sample: Mapping, terms: Sequence[str], strings: Strings) -> list:
    rewards = sample.get("rewards", {})
    scored = [[rewards.get(name) for name in terms], sample["total"], sample["advantage"]] if rewards else [0, 0, 0]
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
    written = [[strings(w["id"]), w["step"], strings(w["text"])] for w in step["written"]]
    removed = [strings(item) for item in step["removed"]]
    return [strings(step["text"]), int(step["finish"] == "length"), operations, removed, written, step["memory_tokens"]]


def compact_answer(answer: Mapping, strings: Strings) -> list:
    return [
        answer["step"],
        strings(answer["question"]),
        strings(answer["kind"]),
        [strings(gold) for gold in answer["gold"]],
        strings(answer["answer"]),
        answer["score"],
        strings(answer.get("failure") or ""),
        [[strings(r["id"]), r["step"], strings(r["text"]), r["bm25"]] for r in answer["retrieved"]],
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


def _left_out(what: str, shown: int, there: int) -> str:
    return f"Sampled: {shown:,} of {there:,} {what} are in this file, evenly spaced." if shown < there else ""


# --------------------------------------------------------------------------------------------------------------
# Reading a run's folder
# --------------------------------------------------------------------------------------------------------------


def _facts(cfg: Mapping, metrics: Sequence[Mapping]) -> list[tuple[str, str]]:
    if not cfg:
        return []
    train, data = cfg["train"], cfg["data"]
    model = cfg["model"]["path"] or f"{cfg['model']['family']} {cfg['model']['preset']}, random"
    return [
        ("task", data["name"]),
        ("policy", model),
        ("seed", str(cfg["seed"])),
        ("steps", f"{len(metrics)} of {train['steps']}"),
        ("rollouts a step", f"{train['episodes']} episodes × {train['group_size']}"),
    ]


def _alarms(workdir: Path) -> list[str]:
    lines = _lines(workdir / "alarms.jsonl")
    return [f"{len(lines)} alarms were raised; the first at step {lines[0]['step']}."] if lines else []


def _latest(evaluations: Sequence[Mapping]) -> dict[str, Mapping]:
    """Of a run that has not ended: the first evaluation and the newest."""
    if not evaluations:
        return {}
    last = max(line["step"] for line in evaluations)
    table = {f"before {line['policy']}": line for line in evaluations if line["step"] == 0}
    return table | {f"after {line['policy']}": line for line in evaluations if line["step"] == last > 0}


def _json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _lines(path: Path) -> list[dict]:
    return read_lines(path) if path.is_file() else []


def _raw_lines(path: Path) -> list[str]:
    """Whole lines of JSON; a half-written last one is left out."""
    return path.read_text("utf-8", errors="replace").split("\n")[:-1]
