"""The tables of the report: accuracy with its intervals, what the measures say, and where wrong answers come from.

Intervals and causes are made of the held-out records. They are those of the evaluation only where every episode of it
was recorded (`config.eval.log_rollouts`), which shows in the accuracy that the records give.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from finemem_jax.config import UserError, plugins, resolve
from finemem_jax.evaluation.intervals import bootstrap_interval, ratio_interval
from finemem_jax.reporting.words import words

NOTE = "Small: 95 % bootstrap interval over held-out episodes, whose questions stand and fall together."
OUTCOMES = ("right", "construction", "retrieval", "answering", "unknown", "missing")  # in the order of the page
_SEED = 0

Scored = tuple[str, list[tuple[str, float | None, str]]]  # an episode's source; of each answer: kind, score, failure


def stem(name: str) -> str:
    """How a row of the results is called in heldout/."""
    whole = name if name.startswith(("before ", "after ")) else f"baseline {name}"
    when, policy = whole.split(" ", 1)
    return f"{when} {re.sub('[^A-Za-z0-9_.=-]', '-', policy)}"


def measures_of(cfg: Mapping[str, Any]) -> tuple[list[ModuleType], list[str]]:
    """The measures of a stored config, all that there are where it names none; and the names of those that are not
    here, such as another's plug-ins."""
    group = cfg.get("eval")
    named = group.get("measures") if isinstance(group, Mapping) else None
    names = named if isinstance(named, list) else list(plugins("finemem_jax.measures"))
    found, absent = [], []
    for name in map(str, names):
        try:
            found.append(resolve("finemem_jax.measures", name))
        except UserError:
            absent.append(name)
    return found, absent


def results_tables(
    results: Mapping[str, Mapping], measures: Sequence[ModuleType], recorded: Mapping[str, Sequence[Scored]]
) -> list[dict]:
    """The first has accuracy, by kind, and the columns of the measures that stand beside it; then one for each measure
    with a table of its own, unless all of it is 0. Rows: before, after, baselines.

    recorded: by `stem`, what the held-out records say of each episode."""
    kinds = sorted({key for row in results.values() for key in row if key.startswith("accuracy/")})
    beside = {name: form for measure in measures if not measure.TABLE for name, form in measure.COLUMNS.items()}
    accuracies = {"accuracy": ".3f", **dict.fromkeys(kinds, ".3f")}
    tables = [_table("", accuracies | beside, results, recorded)]
    for measure in measures:
        if measure.TABLE and any(row.get(column) for row in results.values() for column in measure.COLUMNS):
            title = measure.TABLE[:1].upper() + measure.TABLE[1:]
            tables.append(_table(title, measure.COLUMNS, results, recorded))
    return tables


def _table(
    title: str, forms: Mapping[str, str], results: Mapping[str, Mapping], recorded: Mapping[str, Sequence[Scored]]
) -> dict:
    columns = [column for column in forms if any(column in row for row in results.values())]
    when = {name: name.split(" ")[0] if name.startswith(("before ", "after ")) else "baseline" for name in results}
    order = ("before", "after", "baseline")
    rows = []
    for name in sorted(results, key=lambda name: order.index(when[name])):
        row, sure = results[name], intervals(results[name], recorded.get(stem(name), ()))
        values = [row.get(column) for column in columns]
        rows.append({"name": name, "when": when[name], "values": values, "intervals": [sure.get(c) for c in columns]})
    return {
        "title": title,
        "columns": [words(column) if column != "accuracy" else column for column in columns],
        "logged": columns,
        "digits": [int(found[1]) if (found := re.fullmatch(r"\.(\d)f", forms[c])) else 3 for c in columns],
        "rows": rows,
    }


def intervals(row: Mapping[str, Any], episodes: Sequence[Scored]) -> dict[str, list[float]]:
    """Of each accuracy of a row its 95 % interval, from the records of its episodes; without all of them, from what the
    evaluation logged itself, if it did."""
    by_source, kinds = defaultdict(list), defaultdict(list)
    for source, answers in episodes:
        scores = [score for _, score, _ in answers if score is not None]
        if scores:
            by_source[source].append(float(np.mean(scores)))
        for kind in {kind for kind, score, _ in answers if kind and score is not None}:
            own = [score for other, score, _ in answers if other == kind and score is not None]
            kinds[f"accuracy/{kind}"].append((sum(own), len(own)))
    accuracy = row.get("accuracy")
    means = [float(np.mean(values)) for values in by_source.values()]
    if accuracy is None or not means or abs(float(np.mean(means)) - accuracy) > 1e-6:
        low, high = row.get("low"), row.get("high")
        return {} if accuracy is None or low is None or high is None else {"accuracy": [low, high]}
    names = [name for name, values in sorted(by_source.items()) for _ in values]
    values = [value for _, values in sorted(by_source.items()) for value in values]
    found = {"accuracy": list(bootstrap_interval(values, seed=_SEED, sources=names))}
    for kind, sums in kinds.items():
        found[kind] = list(ratio_interval(*zip(*sums, strict=True), seed=_SEED))
    return found


def cause_rows(recorded: Mapping[str, Sequence[Scored]]) -> list[dict]:
    """How many final questions of each policy are right, missing, or wrong for each cause: of all, by source and by
    kind, before beside after. {"policy", "by": all | source | kind, "name", "counts": by OUTCOMES}."""
    policies = [name for name in recorded if name.startswith(("before ", "after "))]
    policies = sorted(policies, key=lambda name: (name.split(" ", 1)[1], name.startswith("after ")))
    counts: dict[tuple[str, str], dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
    for policy in policies:
        for source, answers in recorded[policy]:
            for kind, _, failure in answers:
                for part in (("all", ""), ("source", source), ("kind", kind)):
                    counts[part][policy][failure or "right"] += 1
    order = ("all", "source", "kind")
    parts = sorted(counts, key=lambda part: (order.index(part[0]), part[1]))
    several = {by: sum(part[0] == by for part in parts) > 1 for by in order}
    return [
        {"policy": policy, "by": by, "name": name, "counts": [found[outcome] for outcome in OUTCOMES]}
        for by, name in parts
        if by == "all" or several[by]
        for policy, found in counts[by, name].items()
    ]
