"""Curves of a run as pictures, for the README and for papers, and as data."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from finemem_jax.files import write_atomically

matplotlib.use("Agg")  # no display on a pod
import matplotlib.pyplot as plt


def plot_run(
    path: Path,
    metrics: Sequence[Mapping],
    evaluations: Sequence[Mapping],
    baselines: Mapping[str, float | None],
    title: str,
) -> None:
    """Left: held-out accuracy over the steps, with the baselines. Right: the reward terms of the training rollouts.

    metrics: lines with "step" and "reward/TERM". evaluations: lines with "step", "policy" and "accuracy".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for name in dict.fromkeys(line["policy"] for line in evaluations):
        lines = [line for line in evaluations if line["policy"] == name]
        left.plot([line["step"] for line in lines], _values(lines, "accuracy"), marker="o", label=name)
    for i, (name, value) in enumerate(baselines.items()):
        if value is None:  # it got no answer
            continue
        left.axhline(value, linestyle=":", color=f"C{i + 4}", label=f"{name} {value:.2f}")
    left.set(xlabel="step", ylabel="held-out question accuracy", ylim=(0, 1), title=title)
    left.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves, never over them
    terms = dict.fromkeys(key for line in metrics for key in line if key.startswith("reward/"))
    for term in terms:  # a step that could not measure a term has no such value
        right.plot([line["step"] for line in metrics], _values(metrics, term), label=term.removeprefix("reward/"))
    right.set(xlabel="step", ylabel="mean over the step's rollouts", title="reward terms")
    if terms:
        right.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary, dpi=110, metadata={"Software": None})
    plt.close(figure)
    temporary.replace(path)


def _values(lines: Sequence[Mapping], metric: str) -> list[float]:
    return [math.nan if line.get(metric) is None else line[metric] for line in lines]


def write_figures(folder: Path, charts: Sequence[Mapping]) -> list[Path]:
    """Every chart of `charts.run_charts` as FOLDER/TITLE.png, .svg and .csv (long form: series, step, value).

    The same charts give the same bytes. Returns the paths of the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for chart in charts:
        name = chart["logged"].split(" in ")[0] if chart["more"] else chart["title"]
        path = folder / re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["series", "step", "value"])
        for line in chart["series"]:
            writer.writerows([line["name"], x, y] for x, y in zip(line["x"], line["y"], strict=True))
        write_atomically(path.with_suffix(".csv"), out.getvalue())
        _draw(path, chart)
        paths.append(path.with_suffix(".png"))
    return paths


def _draw(path: Path, chart: Mapping) -> None:
    with plt.rc_context({"svg.hashsalt": "finemem_jax", "font.size": 9}):  # a salt of our own: random ids otherwise
        figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
        for line in chart["series"]:
            values = [float("nan") if y is None else y for y in line["y"]]
            axis.plot(line["x"], values, label=_plain(line["name"]), linestyle=":" if line["dash"] else "-")
        axis.set(xlabel="step", title=_plain(chart["title"]))
        if chart["range"]:
            axis.set_ylim(*chart["range"])
        axis.legend(fontsize="small")
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            temporary = path.with_name(f".{path.name}.tmp.{suffix}")
            figure.savefig(temporary, dpi=200, metadata=metadata)
            temporary.replace(path.with_suffix(f".{suffix}"))
        plt.close(figure)


def _plain(text: str) -> str:
    """matplotlib reads text between dollar signs as mathematics, and hides labels that begin with "_"."""
    return text.replace("$", r"\$").lstrip("_")
