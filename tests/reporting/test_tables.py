"""The tables list the columns of the measures, and every accuracy has the interval of its own episodes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from finemem_jax.evaluation.intervals import bootstrap_interval, ratio_interval
from finemem_jax.evaluation.paired import HELDOUT_SCORES
from finemem_jax.files import JsonLines
from finemem_jax.reporting import report
from finemem_jax.reporting.tables import cause_rows, intervals, measures_of, results_tables
from finemem_jax.reporting.words import words
from tests.reporting import runs

ROWS = {"after T=1": {"accuracy": 0.5, "accuracy/fact": 0.25, "mine": 3.25, "cost": 2.0}, "oracle": {"accuracy": 1.0}}


def test_a_measure_of_ones_own_has_its_columns_and_its_table():
    beside = SimpleNamespace(TABLE="", COLUMNS={"mine": ".1f", "absent": ".0f"})
    apart = SimpleNamespace(TABLE="what it cost", COLUMNS={"cost": ".2f"})
    empty = SimpleNamespace(TABLE="nothing", COLUMNS={"nothing": ".0f"})
    first, second = results_tables(ROWS, [beside, apart, empty], {})
    assert first["logged"] == ["accuracy", "accuracy/fact", "mine"] and first["digits"] == [3, 3, 1]
    assert [row["values"] for row in first["rows"]] == [[0.5, 0.25, 3.25], [1.0, None, None]]
    assert (second["title"], second["logged"], second["digits"]) == ("What it cost", ["cost"], [2])


def test_the_measures_are_those_of_the_config_and_absent_ones_are_named(tmp_path):
    found, absent = measures_of({"eval": {"measures": ["operations", "my_own"]}})
    assert [name for measure in found for name in measure.COLUMNS] == ["valid_operations", "exact_copy"]
    assert absent == ["my_own"] and len(measures_of({})[0]) >= 5
    run = runs.write_run(tmp_path, episodes=1, steps=1)
    cfg = json.loads((run / "config.json").read_text())
    cfg["eval"]["measures"] = ["my_own"]
    (run / "config.json").write_text(json.dumps(cfg))
    assert any("the measures my_own say" in note for note in report.report_data(run, 0)["notes"])


def test_intervals_are_of_the_episodes_where_all_of_them_were_recorded():
    rng = np.random.default_rng(0)
    episodes = [
        (f"source {e % 2}", [("fact", float(rng.random() < 0.5), ""), ("label", float(rng.random()), "")])
        for e in range(20)
    ]
    by_source = {s: [np.mean([a[1] for a in answers]) for at, answers in episodes if at == s] for s, _ in episodes[:2]}
    row = {"accuracy": float(np.mean([np.mean(values) for values in by_source.values()])), "low": 0.0, "high": 1.0}
    found = intervals(row, episodes)
    values = [value for s in sorted(by_source) for value in by_source[s]]
    names = [s for s in sorted(by_source) for _ in by_source[s]]
    assert found["accuracy"] == pytest.approx(bootstrap_interval(values, seed=0, sources=names))
    low, high = found["accuracy/fact"]
    assert low < np.mean([answers[0][1] for _, answers in episodes]) < high
    assert intervals(row, episodes[:10]) == {"accuracy": [0.0, 1.0]}  # what was logged
    assert intervals({"accuracy": None}, episodes) == intervals({"accuracy": 0.1}, []) == {}


def test_the_interval_of_a_ratio_draws_instances_with_all_of_their_questions():
    assert ratio_interval([1, 2, 3], [1, 2, 3], seed=0) == (1.0, 1.0)
    low, high = ratio_interval([0] * 50 + [4] * 50, [4] * 100, seed=0)
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62  # 0.5 ± 1.96 · 0.05: of 100 instances, not of 400 questions
    assert all(np.isnan(ratio_interval([], [], seed=0)))


def test_causes_are_counted_by_source_and_kind():
    recorded = {
        "before T=1": [("a", [("fact", 0.0, "retrieval"), ("label", 1.0, "")]), ("b", [("fact", None, "missing")])],
        "after T=1": [("a", [("fact", 1.0, ""), ("label", 1.0, "")]), ("b", [("fact", 0.0, "construction")])],
        "baseline oracle": [("a", [("fact", 1.0, "")])],
    }
    rows = {(row["by"], row["name"], row["policy"]): row["counts"] for row in cause_rows(recorded)}
    assert rows["all", "", "before T=1"] == [1, 0, 1, 0, 0, 1] and rows["all", "", "after T=1"] == [2, 1, 0, 0, 0, 0]
    assert rows["kind", "fact", "before T=1"] == [0, 0, 1, 0, 0, 1]
    assert rows["source", "b", "after T=1"] == [0, 1, 0, 0, 0, 0]
    assert len(rows) == 2 * (1 + 2 + 2)


def test_the_gain_has_the_interval_of_the_paired_differences(tmp_path):
    run = runs.write_run(tmp_path, episodes=4, steps=3)
    log = JsonLines(run / HELDOUT_SCORES, keep_below=0)
    for step, scores in ((0, [0.0, 0.5, 0.25, 0.25]), (3, [0.25, 0.75, 0.5, 0.5])):
        names = {"episodes": ["a", "b", "c", "d"], "sources": ["s"] * 4, "scores": scores}
        log.write(step, {"policy": "T=1", **names})
    data = report.report_data(run, 0)
    assert "0.250 to 0.500 (+0.250, 95 % interval +0.250 to +0.250) at temperature 1" in data["verdict"]
    held_out = data["charts"][0]["series"][0]
    assert held_out["low"][0] < 0.25 < held_out["high"][0]


def test_names_are_said_in_words():
    assert words("loss/grad_norm") == "Gradient norm" and words("accuracy/fact") == "fact"
    assert words("seconds/rollout") == "Seconds: rollout" and words("my_own/thing") == "My own thing"
