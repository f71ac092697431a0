"""What the curves and tables of a run show: one list, from which the HTML page, figures and CSV files are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAX_POINTS = 600  # of one series; longer ones are thinned evenly

_TITLES = (  # (prefix or name of metrics, title, note, range)
    ("reward/", "Reward terms", "Mean over the step's rollouts, unweighted.", None),
    ("share/", "Share of the advantage's variance", "What the policy is really trained on; the terms sum to 1.", None),
    ("spread/", "Spread within groups", "Standard deviation of each term around its group's mean.", None),
    ("accuracy", "Accuracy in training", "Final questions of the step's rollouts.", (0.0, 1.0)),
    ("memory_tokens", "Length of the final memory", "Tokens, mean over rollouts.", None),
    ("operations", "Operations", "Share that is valid, and how many a step.", None),
    ("groups_with_gradient", "Groups with a gradient", "Share of (episode, step) with any spread.", (0.0, 1.0)),
    ("loss/grad_norm", "Gradient norm", "Before clipping.", None),
    ("loss/ref_kl", "KL to the reference", "Mean over tokens.", None),
)
_TOGETHER = {"operations": ("valid_operations", "operations_per_step", "updates_per_step")}


def run_charts(
    metrics: Sequence[Mapping], timings: Sequence[Mapping], evaluations: Sequence[Mapping], results: Mapping
) -> list[dict]:
    """Charts as {"title", "note", "range", "more", "series": [{"name", "x", "y", "dash"}]}; x are steps."""
    found = []
    if evaluations:
        found.append(_accuracy(evaluations, results))
    shown: set[str] = set()
    for prefix, title, note, bounds in _TITLES:
        names = _TOGETHER.get(prefix) or [
            n for n in _names(metrics) if n == prefix or n.startswith(f"{prefix.rstrip('/')}/")
        ]
        names = [name for name in names if name in _names(metrics)]
        if names:
            shown |= set(names)
            series = [_series(metrics, name, name.removeprefix(prefix)) for name in names]
            found.append(_chart(title, series, note, bounds))
    for lines, logged in ((metrics, "metrics.jsonl"), (timings, "timings.jsonl")):
        for name in _names(lines):
            if name not in shown:
                found.append(_chart(name, [_series(lines, name, name)], logged, None, more=True))
    return found


def _accuracy(evaluations: Sequence[Mapping], results: Mapping) -> dict:
    policies = dict.fromkeys(line["policy"] for line in evaluations)
    series = [_series([e for e in evaluations if e["policy"] == policy], "accuracy", policy) for policy in policies]
    steps = [min(e["step"] for e in evaluations), max(e["step"] for e in evaluations)]
    for name, row in results.items():
        if not name.startswith(("before ", "after ")):
            series.append({"name": name, "x": steps, "y": [row.get("accuracy")] * 2, "dash": True})
    return _chart("Held-out accuracy", series, "By policy; dotted: baselines.", (0.0, 1.0))


def _chart(title: str, series: list[dict], note: str, bounds: tuple | None, *, more: bool = False) -> dict:
    return {"title": title, "note": note, "range": bounds, "more": more, "series": series}


def _series(lines: Sequence[Mapping], metric: str, name: str) -> dict:
    points = [(line["step"], line[metric]) for line in lines if metric in line]
    if len(points) > MAX_POINTS:
        points = [points[round(i * (len(points) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
    return {"name": name or metric, "x": [x for x, _ in points], "y": [y for _, y in points], "dash": False}


def _names(lines: Sequence[Mapping]) -> list[str]:
    """Numeric metrics in the order of their first appearance."""
    names = dict.fromkeys(k for line in lines for k, v in line.items() if isinstance(v, int | float | None))
    return [name for name in names if name != "step"]


def phases(timings: Sequence[Mapping]) -> list[dict]:
    """Seconds of each phase of a step, mean over the steps it was in, and its share of all time; largest first."""
    names = [name for name in _names(timings) if name.startswith("seconds/")]
    sums = {name: sum(line.get(name) or 0.0 for line in timings) for name in names}
    whole = sum(sums.values())
    rows = [
        {"name": name.removeprefix("seconds/"), "seconds": total / len(timings), "share": total / whole}
        for name, total in sums.items()
        if whole
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def results_table(results: Mapping[str, Mapping]) -> dict:
    """Rows in the order before, after, baselines; columns accuracy, accuracy by kind, memory and operations."""
    kinds = sorted({key for row in results.values() for key in row if key.startswith("accuracy/")})
    columns = ["accuracy", *kinds, "memory_tokens", "memory_items", "valid_operations", "exact_copy"]
    columns = [column for column in columns if any(column in row for row in results.values())]
    when = {name: name.split(" ")[0] if name.startswith(("before ", "after ")) else "baseline" for name in results}
    order = ("before", "after", "baseline")
    return {
        "columns": [column.removeprefix("accuracy/").replace("_", " ") for column in columns],
        "digits": [1 if column.startswith("memory") else 3 for column in columns],
        "rows": [
            {"name": name, "when": when[name], "values": [results[name].get(column) for column in columns]}
            for name in sorted(results, key=lambda name: order.index(when[name]))
        ],
    }


def verdict(results: Mapping[str, Mapping]) -> str:
    """In words: what training did to held-out accuracy."""
    parts, unknown = [], []
    for name, row in results.items():
        after = results.get(name.replace("before ", "after ", 1))
        if name.startswith("before ") and after:
            found = [score for score in (row.get("accuracy"), after.get("accuracy")) if score is not None]
            policy = _sampled(name.removeprefix("before "))
            if len(found) == 2:
                parts.append(f"{found[0]:.3f} to {found[1]:.3f} ({found[1] - found[0]:+.3f}) {policy}")
            else:
                unknown.append(policy)
    said = [f"Held-out accuracy went from {', and from '.join(parts)}."] if parts else []
    said += [f"What became of it {policy} is not known: an evaluation got no answers." for policy in unknown]
    return " ".join(said)


def _sampled(policy: str) -> str:
    return "greedily" if policy == "greedy" else f"at {policy.replace('T=', 'temperature ')}"
