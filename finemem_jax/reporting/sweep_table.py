"""What a sweep found: one row per config, the mean over its seeds with a 95 % interval, as table, figure and data.

Rows are compared seed by seed: what two configs share with a seed (the episodes, the draws) leaves their difference.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from scipy import stats

from finemem_jax.console import print_table, tell
from finemem_jax.evaluation.paired import Scores, paired_differences, paired_interval
from finemem_jax.files import write_atomically

matplotlib.use("Agg")  # no display on a pod
import matplotlib.pyplot as plt

# Fine-Mem (arXiv 2601.08435), ablation with Qwen3-4B: (average score, average memory in thousands of tokens).
PAPER = {
    "outcome_only": (0.627, 92.4),
    "csr": (0.639, 86.2),
    "eara": (0.622, 60.7),
    "full": (0.663, 79.1),
}
_PAPER_NOTE = (
    "† The paper's own ablation, on another scale: Qwen3-4B on its own benchmarks, memories of tens of thousands of "
    "tokens. Only the order of its rows can be compared with ours."
)


_TRAINED = ("after ", "at ")  # what begins the name of a policy after training, or at the end of a budget
MIN_SEEDS = 3  # for an interval: with two, Student's t is 12.7 standard errors wide and says nothing
BOUNDED = {"accuracy": (0.0, 1.0), "memory_tokens": (0.0, np.inf)}  # what a metric can be; no axis goes beyond


@dataclass(frozen=True, slots=True)
class Row:
    """One config of a sweep."""

    name: str
    seeds: tuple[int, ...]  # that are finished
    values: Mapping[str, Mapping[str, Sequence[float]]]  # policy -> metric -> one value per seed
    commands: tuple[str, ...]  # that make the row, one per seed
    episodes: Sequence[Mapping[str, Scores]] = ()  # of every seed: policy -> the scores of its held-out episodes
    spent: Mapping[str, Sequence[float]] = field(default_factory=dict)  # what training took -> one value per seed


_Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # its title, heads and cells


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a row. `minus`: a policy whose value with the same seed is subtracted."""

    title: str
    policy: str
    metric: str
    minus: str = ""
    digits: int = 3
    table: str = ""  # that it belongs to: "T=1", "T=1 at budget_tokens"

    def values(self, row: Row) -> list[float]:
        """One value per seed; empty where the row has no such policy or metric."""
        found = row.values.get(self.policy, {}).get(self.metric, [])
        if not self.minus or not len(found):
            return list(found)
        base = row.values.get(self.minus, {}).get(self.metric, [])
        return [a - b for a, b in zip(found, base, strict=True)] if len(base) else []


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval by Student's t; the width is NaN below MIN_SEEDS values."""
    half = np.nan
    if len(values) >= MIN_SEEDS:
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def columns(rows: Sequence[Row]) -> list[Column]:
    """Accuracy before and after, the gain, by kind of question, and memory, for every temperature evaluated."""
    policies = {policy for row in rows for policy in row.values}
    chosen = []
    temperatures = {p.removeprefix("after ") for p in policies if p.startswith("after ")}
    ordered = [t for t in ("T=1", "greedy", *sorted(temperatures)) if t in temperatures]
    # Where a run was evaluated when a budget was spent comes behind what it was at its end.
    for after in [f"{when} {t}" for t in dict.fromkeys(ordered) for when in ("after", *_moments(policies, t))]:
        when, _, temperature = after.rpartition(" ")
        before, table = f"before {temperature}", temperature if when == "after" else f"{temperature} {when}"
        kinds = sorted({m for row in rows for m in row.values.get(after, {}) if m.startswith("accuracy/")})
        chosen += [
            Column("before", before, "accuracy", table=table),
            Column("after", after, "accuracy", table=table),
            Column("gain", after, "accuracy", minus=before, table=table),
            *(Column(kind.removeprefix("accuracy/"), after, kind, table=table) for kind in kinds),
            Column("memory tokens", after, "memory_tokens", digits=1, table=table),
        ]
    return chosen


def _moments(policies: Iterable[str], temperature: str) -> list[str]:
    """ "at budget_tokens", for each budget at whose end rows were evaluated."""
    ends = f" {temperature}"
    return sorted(p.removesuffix(ends) for p in policies if p.startswith("at ") and p.endswith(ends))


def baseline_rows(rows: Sequence[Row]) -> list[Row]:
    """The scripted baselines, of the first row that has each, as rows of their own; they have no "before"."""
    found: dict[str, Row] = {}
    for row in rows:
        for policy, metrics in row.values.items():
            if not policy.startswith(("before ", *_TRAINED)) and policy not in found:
                values = {f"after {t}": metrics for t in ("T=1", "greedy")}
                found[policy] = Row(f"baseline {policy}", row.seeds, values, row.commands)
    return list(found.values())


def paired_rows(rows: Sequence[Row]) -> list[Row]:
    """The differences of every two rows, later minus earlier, over the seeds that both have, for what comes after
    training; as rows of their own, with the name "LATER - EARLIER"."""
    pairs = []
    for first, second in itertools.combinations(rows, 2):
        seeds = [seed for seed in first.seeds if seed in second.seeds]
        values = {
            policy: {
                metric: [
                    second.values[policy][metric][second.seeds.index(seed)] - found[first.seeds.index(seed)]
                    for seed in seeds
                ]
                for metric, found in metrics.items()
                if metric in second.values[policy]
            }
            for policy, metrics in first.values.items()
            if policy.startswith(_TRAINED) and policy in second.values
        }
        if seeds and values:
            pairs.append(Row(f"{second.name} - {first.name}", tuple(seeds), values, ()))
    return pairs


def episode_pairs(rows: Sequence[Row], policy: str) -> list[list[str]]:
    """The cells of the differences of every two rows, later minus earlier, paired by seed and held-out episode: name,
    seeds, episodes of a seed, and the mean with its bootstrap interval. Rows that were not evaluated on the same
    episodes are left out."""
    cells = []
    for first, second in itertools.combinations(rows, 2):
        of_seeds = []
        for seed, scores in zip(first.seeds, first.episodes, strict=False):
            if seed in second.seeds and second.episodes:
                other = second.episodes[second.seeds.index(seed)]
                of_seeds.append(paired_differences(scores.get(policy), other.get(policy)))
        found = [differences for differences in of_seeds if differences]
        if not found or len(found) < len(of_seeds):
            continue
        mean, low, high = paired_interval(found)
        bounds = f" ({low:+.3f} to {high:+.3f})" if len(found) >= MIN_SEEDS else ""
        episodes = max(sum(map(len, differences.values())) for differences in found)
        cells.append([f"{second.name} - {first.name}", str(len(found)), str(episodes), f"{mean:+.3f}{bounds}"])
    return cells


def too_few_seeds(rows: Sequence[Row]) -> str:
    """Which rows have no interval, and why; empty when all have one."""
    few = [f"{row.name} has {len(row.seeds)}" for row in rows if len(row.seeds) < MIN_SEEDS]
    return f"An interval needs {MIN_SEEDS} seeds or more (--seeds=0,1,2): {', '.join(few)}." if few else ""


def write_sweep(workdir: Path, rows: Sequence[Row]) -> None:
    """WORKDIR/sweep.md (tables, note and commands), .csv and .json (every seed), .png and .svg; prints the tables."""
    trained = [row for row in rows if any(policy.startswith("after ") for policy in row.values)]
    shown, pairs = trained + baseline_rows(rows), paired_rows(trained)
    chosen = columns(shown)
    compared = [column for column in chosen if column.policy.startswith(_TRAINED) and not column.minus]
    tables: list[_Table] = []
    for table in dict.fromkeys(column.table for column in chosen):
        own = [column for column in chosen if column.table == table]
        heads: Sequence[str] = ["config", "seeds", *(column.title for column in own), "paper: score†", "memory tokens†"]
        cells = [
            [row.name, str(len(row.seeds)), *(_cell(column, row) for column in own), *_paper(row)] for row in shown
        ]
        tables.append((f"{table}: mean ± 95 % interval (Student's t) over seeds, gains by seed", heads, cells))
        own = [column for column in compared if column.table == table]
        heads = ["difference, paired by seed", "seeds", *(column.title for column in own)]
        cells = [[row.name, str(len(row.seeds)), *(_cell(column, row, "+") for column in own)] for row in pairs]
        if cells:
            tables.append((f"{table}: differences after training, mean ± 95 % interval over seeds", heads, cells))
        heads = ["difference, paired by seed and episode", "seeds", "episodes", "accuracy (95 %)"]
        cells = episode_pairs(trained, own[0].policy) if own else []
        if cells:
            title = f"{table}: differences after training, 95 % bootstrap interval over seeds and their episodes"
            tables.append((title, heads, cells))
    tables += cost_tables(trained)
    notes = [note for note in (too_few_seeds(trained), _PAPER_NOTE) if note]
    write_atomically(workdir / "sweep.md", _markdown(tables, notes, rows))
    write_atomically(workdir / "sweep.csv", _csv(shown, chosen, pairs, compared))
    data = [{"config": r.name, "seeds": r.seeds, "values": r.values, "commands": r.commands} for r in rows]
    write_atomically(workdir / "sweep.json", json.dumps(data, indent=1, default=list))
    plot_sweep(workdir / "sweep", shown)
    for shown_table in tables:
        print_table(*shown_table)
    tell("\n".join([*notes, f"table: {workdir / 'sweep.md'}", f"figure: {workdir / 'sweep.png'}"]))


_COSTS = (
    # title, what of: a metric after training | what training took, digits, divided by
    ("accuracy", "accuracy", 3, 1),
    ("memory tokens", "memory_tokens", 1, 1),
    ("tokens written", "written_tokens", 1, 1),
    ("questions to the answerer", "asked", 1, 1),
)
_SPENT = (
    ("training: thousand tokens sampled", "tokens", 1, 1000),
    ("questions to the answerer", "answers", 0, 1),
    ("minutes", "seconds", 1, 60),
)


def cost_tables(rows: Sequence[Row]) -> list[_Table]:
    """For every temperature what a row is worth for what it takes: of an episode, and of training; none for rows whose
    runs say neither."""
    tables: list[_Table] = []
    for temperature in ("T=1", "greedy"):
        cells = [_cost_cells(row, row.values.get(f"after {temperature}", {})) for row in rows if row.spent]
        if cells:
            heads = ["config", "accuracy", "per 1,000 memory tokens", *(title for title, *_ in (*_COSTS[1:], *_SPENT))]
            tables.append(
                (f"{temperature}: for what it takes, an episode and in training, mean over seeds", heads, cells)
            )
    return tables


def _cost_cells(row: Row, metrics: Mapping[str, Sequence[float]]) -> list[str]:
    def mean(values: Sequence[float], digits: int, unit: float) -> str:
        return f"{np.mean(values) / unit:.{digits}f}" if len(values) else "–"

    held = metrics.get("memory_tokens", ())
    worth = [1000 * a / tokens for a, tokens in zip(metrics.get("accuracy", ()), held, strict=False) if tokens]
    shown = [mean(metrics.get(name, ()), digits, unit) for _, name, digits, unit in _COSTS]
    spent = [mean(row.spent.get(name, ()), digits, unit) for _, name, digits, unit in _SPENT]
    return [row.name, shown[0], mean(worth, 2, 1), *shown[1:], *spent]


def _cell(column: Column, row: Row, sign: str = "") -> str:
    values = column.values(row)
    if not values:
        return "–"
    mean, half = mean_interval(values)
    mean = round(mean, column.digits) + 0.0  # no "-0.000"
    text = f"{mean:{'+' if column.minus else sign}.{column.digits}f}"
    return text if np.isnan(half) else f"{text} ± {half:.{column.digits}f}"


def _paper(row: Row) -> list[str]:
    if row.name not in PAPER:
        return ["", ""]
    accuracy, thousands = PAPER[row.name]
    return [f"{accuracy:.3f}", f"{thousands:.1f}K"]


def _markdown(tables: Sequence[_Table], notes: Sequence[str], rows: Sequence[Row]) -> str:
    lines = []
    for title, heads, cells in tables:
        lines += [f"{title}:", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        lines += [*(f"| {' | '.join(row)} |" for row in cells), ""]
    lines += [*itertools.chain.from_iterable((note, "") for note in notes), "Commands:", "", "```"]
    lines += [command for row in rows for command in row.commands]
    return "\n".join([*lines, "```", ""])


def _csv(shown: Sequence[Row], chosen: Sequence[Column], pairs: Sequence[Row], compared: Sequence[Column]) -> str:
    """Long form: one line per row, column and seed, and the mean with its interval; then the same of the pairs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["config", "policy", "metric", "minus", "seed", "value"])
    for row, column in (*itertools.product(shown, chosen), *itertools.product(pairs, compared)):
        values = column.values(row)
        if not values:
            continue
        key = [row.name, column.policy, column.metric, column.minus]
        writer.writerows([*key, seed, f"{value:.9g}"] for seed, value in zip(row.seeds, values, strict=True))
        mean, half = mean_interval(values)
        writer.writerow([*key, "mean", f"{mean:.9g}"])
        writer.writerow([*key, "interval95", "" if np.isnan(half) else f"{half:.9g}"])
    return out.getvalue()


def plot_sweep(stem: Path, rows: Sequence[Row]) -> None:
    """STEM.png and STEM.svg. Left: accuracy after training, one dot per seed. Right: length of the final memory."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.4 + 0.45 * len(rows)), layout="constrained", sharey=True, width_ratios=(2, 1)
    )
    places = np.arange(len(rows))[::-1]
    for offset, temperature, color in ((0.15, "T=1", "C0"), (-0.15, "greedy", "C1")):
        for axis, metric in ((left, "accuracy"), (right, "memory_tokens")):
            _dots(axis, rows, places + offset, Column("", f"after {temperature}", metric), color, temperature)
        for row, place in zip(rows, places, strict=True):
            before = row.values.get(f"before {temperature}", {}).get("accuracy", [])
            if len(before):
                left.plot(np.mean(before), place + offset, marker="|", color=color, markersize=12)
    left.set(
        yticks=places, yticklabels=[row.name for row in rows], xlabel="held-out accuracy after training (| before)"
    )
    right.set(xlabel="tokens of the final memory")
    for axis, metric in ((left, "accuracy"), (right, "memory_tokens")):
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlim(np.clip(axis.get_xlim(), *BOUNDED[metric]))
    left.legend(fontsize="small")
    for suffix in ("png", "svg"):
        temporary = stem.with_name(f".{stem.name}.tmp.{suffix}")
        figure.savefig(temporary, dpi=110, metadata={"Software": None} if suffix == "png" else {"Date": None})
        temporary.replace(stem.with_suffix(f".{suffix}"))
    plt.close(figure)


def _dots(axis: plt.Axes, rows: Sequence[Row], places: np.ndarray, column: Column, color: str, label: str) -> None:
    """Every seed as a faint dot, the mean with its interval over it."""
    for row, place in zip(rows, places, strict=True):
        values = column.values(row)
        if not values:
            continue
        mean, half = mean_interval(values)
        low, high = np.clip((mean - half, mean + half), *BOUNDED[column.metric])
        bar = None if np.isnan(half) else [[mean - low], [high - mean]]
        axis.plot(values, [place] * len(values), ".", color=color, alpha=0.4, clip_on=False)
        axis.errorbar(mean, place, xerr=bar, fmt="o", color=color, capsize=3, label=label, clip_on=False)
        label = ""  # once in the legend
