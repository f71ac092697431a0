"""Several runs on one page: what is drawn is the mean of their records, with its interval."""

from __future__ import annotations

import json

import pytest

from finemem_jax import main
from finemem_jax.files import read_lines
from finemem_jax.reporting.overlay import overlay_data, read_rows
from finemem_jax.reporting.sweep_table import mean_interval
from tests.reporting import runs
from tests.reporting.test_report import embedded


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two rows; the first with three seeds, of which none has the accuracy of the others, the second with one."""
    folder = tmp_path_factory.mktemp("sweep")
    for row, seeds in (("full", 3), ("csr", 1)):
        for seed in range(seeds):
            run = runs.write_run(folder / row / f"seed-{seed}", episodes=2, steps=3, nasty="")
            lines = [
                line | {"accuracy": (1 + seed) / 10, "accuracy_low": 0.05, "accuracy_high": 0.3}
                for line in read_lines(run / "metrics.jsonl")
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            results = json.loads((run / "results.json").read_text())
            results["after T=1"]["accuracy"] = 0.5 + seed / 10
            (run / "results.json").write_text(json.dumps(results))
    return folder


def test_a_sweeps_folder_is_drawn_as_means_over_seeds_with_intervals(sweep):
    assert main.main(["report", f"--workdir={sweep}"]) == 0
    data = embedded(sweep / "report.html")
    assert data["runs"] == ["csr", "full"] and data["groups"] == []
    curve = next(chart for chart in data["charts"] if chart["title"] == "Accuracy in training")
    csr, full = curve["series"]
    mean, half = mean_interval([0.1, 0.2, 0.3])
    assert (csr["name"], csr["y"], full["name"]) == ("csr", [0.1] * 3, "full")
    assert (csr["low"], csr["high"]) == ([0.05] * 3, [0.3] * 3)  # of a single run: over its episodes
    assert not any("accuracy_low" in chart["logged"] for chart in data["charts"])
    assert full["y"] == pytest.approx([mean] * 3) and full["low"] == pytest.approx([mean - half] * 3)
    table = data["tables"][0]
    assert table["title"] == "Held-out, T=1" and [row["name"] for row in table["rows"]] == [
        "csr",
        "full",
        "baseline oracle",
    ]
    after = table["columns"].index("after")
    row = table["rows"][1]
    mean, half = mean_interval([0.5, 0.6, 0.7])
    assert row["values"][after] == pytest.approx(mean)
    assert row["intervals"][after] == pytest.approx([mean - half, mean + half])


def test_several_runs_lie_over_each_other_beside_the_first(sweep, capsys):
    folders = [sweep / "full" / "seed-0", sweep / "full" / "seed-1"]
    assert main.main(["report", *(f"--workdir={folder}" for folder in folders)]) == 0
    page = sweep / "full" / "comparison.html"
    assert str(page) in capsys.readouterr().out
    data = embedded(page)
    assert data["runs"] == ["seed-0", "seed-1"]
    for chart in data["charts"]:
        assert [series["name"] for series in chart["series"]] == ["seed-0", "seed-1"]
    rewards = [read_lines(folder / "metrics.jsonl") for folder in folders]
    curve = next(chart for chart in data["charts"] if chart["logged"] == "reward/total in metrics.jsonl")
    assert [series["y"] for series in curve["series"]] == [[line["reward/total"] for line in run] for run in rewards]


def test_what_cannot_be_laid_over_each_other_is_refused(sweep, tmp_path, capsys):
    once = sweep / "csr" / "seed-0"
    for arguments, said in (
        ([f"--workdir={once}", f"--workdir={tmp_path}"], "no run in"),
        ([f"--workdir={once}", f"--workdir={sweep / 'full' / 'seed-0'}"], "two rows are called seed-0"),
        ([f"--workdir={once}", f"--workdir={sweep}", f"--figures={tmp_path}"], "--figures: of one run"),
    ):
        assert main.main(["report", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_runs_that_have_not_ended_are_in_the_curves_and_said(sweep, tmp_path):
    run = runs.write_run(tmp_path / "begun", episodes=1, steps=2, nasty="")
    (run / "results.json").unlink()
    data = overlay_data("x", *read_rows([run, sweep / "csr" / "seed-0"]))
    assert "Runs that have not ended, and are in curves alone: begun (1)." in data["notes"]
    assert data["charts"][0]["series"][0]["name"] == "begun"
