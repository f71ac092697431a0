"""What the curves of a run show: one list, from which the HTML page, figures and CSV files are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finemem_jax.reporting.words import words

MAX_POINTS = 600  # of one series; longer ones are thinned evenly

_TITLES = (  # (prefix or name of metrics, title, note, range)
    ("reward/", "Reward terms", "Mean over the step's rollouts, unweighted.", None),
    ("share/", "Share of the advantage's variance", "What the policy is really trained on; the terms sum to 1.", None),
    ("spread/", "Spread within groups", "Standard deviation of each term around its group's mean.", None),
    (
        "accuracy",
        "Accuracy in training",
        "Final questions of the step's rollouts, with 95 % intervals over its episodes.",
        (0.0, 1.0),
    ),
    ("memory_tokens", "Length of the final memory", "Tokens, mean over rollouts.", None),
    ("operations", "Operations", "Share that is valid, and how many a step.", None),
    ("groups_with_gradient", "Groups with a gradient", "Share of (episode, step) with any spread.", (0.0, 1.0)),
    ("loss/grad_norm", "Gradient norm", "Before clipping.", None),
    ("loss/ref_kl", "KL to the reference", "Mean over tokens.", None),
    ("nll", "Surprise at what is imitated", "Mean negative log-probability of a token.", None),
)
_TOGETHER = {"operations": ("valid_operations", "operations_per_step", "updates_per_step")}
_COLORS = 8  # of the page's palette


def term_colors(terms: Sequence[str], metrics: Sequence[Mapping]) -> dict[str, int]:
    """Of every reward term the number of its colour, the same wherever it is drawn. `total` has the last one, which the
    page also gives to what it does not know."""
    logged = [n.split("/", 1)[1] for n in _names(metrics) if n.startswith(("reward/", "share/", "spread/"))]
    known = sorted({*terms, *logged} - {"total"}, key=lambda name: (name not in _USUAL, name))
    return {"total": _COLORS - 1} | {name: i % (_COLORS - 1) for i, name in enumerate(known)}


_USUAL = ("chunk_qa", "compression", "evidence", "format")


def run_charts(
    metrics: Sequence[Mapping],
    timings: Sequence[Mapping],
    evaluations: Sequence[Mapping],
    results: Mapping,
    colors: Mapping[str, int] | None = None,
) -> list[dict]:
    """Charts as {"title", "note", "logged", "range", "more", "series": [{"name", "x", "y", "low", "high", "dash",
    "color"}]}; x are steps. colors: of the terms."""
    colors = term_colors((), metrics) if colors is None else colors
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
            series = [_series(metrics, name, _called(name, prefix), colors) for name in names]
            shown |= {f"{name}_{bound}" for name in names for bound in ("low", "high")}
            logged = f"{prefix}TERM" if prefix.endswith("/") else ", ".join(names)
            found.append(_chart(title, series, note, bounds, logged))
    for lines, place in ((metrics, "metrics.jsonl"), (timings, "timings.jsonl")):
        for name in _names(lines):
            if name not in shown:
                series = [_series(lines, name, words(name), {})]
                found.append(_chart(words(name), series, "", None, f"{name} in {place}", more=True))
    return found


def _called(name: str, prefix: str) -> str:
    return name.removeprefix(prefix) if prefix.endswith("/") else words(name) if prefix in _TOGETHER else name


def _accuracy(evaluations: Sequence[Mapping], results: Mapping) -> dict:
    policies = dict.fromkeys(line["policy"] for line in evaluations)
    series = [_series([e for e in evaluations if e["policy"] == policy], "accuracy", policy, {}) for policy in policies]
    for line in series:
        own = [e for e in evaluations if e["policy"] == line["name"]]
        if any("low" in e and "high" in e for e in own):
            line |= {bound: [e.get(bound) for e in own] for bound in ("low", "high")}
    steps = [min(e["step"] for e in evaluations), max(e["step"] for e in evaluations)]
    for name, row in results.items():
        if not name.startswith(("before ", "after ")):
            series.append({"name": name, "x": steps, "y": [row.get("accuracy")] * 2, "dash": True})
    note = "By policy, with 95 % intervals where they were logged; dotted: baselines."
    return _chart("Held-out accuracy", series, note, (0.0, 1.0), "accuracy in evaluations.jsonl")


def _chart(title: str, series: list[dict], note: str, bounds: tuple | None, logged: str, *, more: bool = False) -> dict:
    return {"title": title, "note": note, "logged": logged, "range": bounds, "more": more, "series": series}


def _series(lines: Sequence[Mapping], metric: str, name: str, colors: Mapping[str, int]) -> dict:
    lines = [line for line in lines if metric in line]
    if len(lines) > MAX_POINTS:
        lines = [lines[round(i * (len(lines) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
    found = {
        "name": name or metric,
        "x": [line["step"] for line in lines],
        "y": [line[metric] for line in lines],
        "dash": False,
    }
    term = metric.split("/", 1)[-1]
    bounds = {bound: [line.get(f"{metric}_{bound}") for line in lines] for bound in ("low", "high")}
    if any(value is not None for value in bounds["low"]):
        found |= bounds
    return found | ({"color": colors[term]} if "/" in metric and term in colors else {})


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


def verdict(results: Mapping[str, Mapping], gains: Mapping[str, tuple[float, float]] | None = None) -> str:
    """In words: what training did to held-out accuracy. gains: by policy, the interval of the difference, if known."""
    parts, unknown = [], []
    for name, row in results.items():
        after = results.get(name.replace("before ", "after ", 1))
        if name.startswith("before ") and after:
            found = [score for score in (row.get("accuracy"), after.get("accuracy")) if score is not None]
            policy = _sampled(name.removeprefix("before "))
            if len(found) == 2:
                sure = (gains or {}).get(name.removeprefix("before "))
                between = f", 95 % interval {sure[0]:+.3f} to {sure[1]:+.3f}" if sure else ""
                parts.append(f"{found[0]:.3f} to {found[1]:.3f} ({found[1] - found[0]:+.3f}{between}) {policy}")
            else:
                unknown.append(policy)
    said = [f"Held-out accuracy went from {', and from '.join(parts)}."] if parts else []
    said += [f"What became of it {policy} is not known: an evaluation got no answers." for policy in unknown]
    return " ".join(said)


def _sampled(policy: str) -> str:
    return "greedily" if policy == "greedy" else f"at {policy.replace('T=', 'temperature ')}"
