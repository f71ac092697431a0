"""Curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display on a pod
import matplotlib.pyplot as plt


def plot_run(
    path: Path, metrics: Sequence[Mapping], evaluations: Sequence[Mapping], baselines: Mapping[str, float], title: str
) -> None:
    """Left: held-out accuracy over the steps, with the baselines. Right: the reward terms of the training rollouts.

    metrics: lines with "step" and "reward/TERM". evaluations: lines with "step", "policy" and "accuracy".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in dict.fromkeys(line["policy"] for line in evaluations):
        lines = [line for line in evaluations if line["policy"] == name]
        left.plot([line["step"] for line in lines], [line["accuracy"] for line in lines], marker="o", label=name)
    for i, (name, value) in enumerate(baselines.items()):
        left.axhline(value, linestyle=":", color=f"C{i + 4}", label=f"{name} {value:.2f}")
    left.set(xlabel="step", ylabel="held-out question accuracy", ylim=(0, 1), title=title)
    left.legend(fontsize="small")
    terms = [key for key in (metrics[0] if metrics else {}) if key.startswith("reward/")]
    for term in terms:
        right.plot(
            [line["step"] for line in metrics], [line[term] for line in metrics], label=term.removeprefix("reward/")
        )
    right.set(xlabel="step", ylabel="mean over the step's rollouts", title="reward terms")
    if terms:
        right.legend(fontsize="small")
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary, dpi=110, metadata={"Software": None})
    plt.close(figure)
    temporary.replace(path)
