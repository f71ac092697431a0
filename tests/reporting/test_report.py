"""The report's numbers are the run's, it fits its size, and what it leaves out it says."""

from __future__ import annotations

import csv
import json
import random
import re

import pytest

from finemem_jax import main
from finemem_jax.config import Config
from finemem_jax.evaluate import Evaluation, headline, print_comparison
from finemem_jax.files import JsonLines, read_lines, write_json_lines
from finemem_jax.reporting import charts, report
from finemem_jax.reporting.compact import Prompts, Strings, compact_step, evenly
from finemem_jax.reporting.plots import plot_run, write_figures
from finemem_jax.reporting.report import MAX_BYTES, write_report
from tests.reporting import runs


def embedded(path):
    """The JSON object inside the page."""
    page = path.read_text("utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    return json.loads(found)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def data(run):
    return embedded(write_report(run))


def test_every_point_of_every_curve_is_in_the_runs_jsonl(run, data):
    logged = {line["step"]: line for line in read_lines(run / "metrics.jsonl")}
    seen = set()
    for name in ("reward/format", "reward/total", "share/evidence", "accuracy", "memory_tokens"):
        short = name.split("/")[-1]
        spec = next(
            c for c in data["charts"] if any(s["name"] == short and s["y"][0] == logged[0][name] for s in c["series"])
        )
        series = next(s for s in spec["series"] if s["name"] == short)
        assert dict(zip(series["x"], series["y"], strict=True)) == {t: line[name] for t, line in logged.items()}
        bounds = {bound: [line.get(f"{name}_{bound}") for line in logged.values()] for bound in ("low", "high")}
        assert {bound: series.get(bound, [None] * len(logged)) for bound in bounds} == bounds
        seen.add(spec["title"])
    assert not any("accuracy_low" in chart["logged"] for chart in data["charts"])  # a band, no curve of its own
    assert {"Reward terms", "Share of the advantage's variance", "Accuracy in training"} <= seen
    held_out = next(c for c in data["charts"] if c["title"] == "Held-out accuracy")
    assert {s["name"]: s["y"] for s in held_out["series"]} == {
        "T=1": [0.25, 0.5], "greedy": [0.25, 0.5], "oracle": [0.9, 0.9],
    }  # fmt: skip


def test_the_table_is_the_results(run, data):
    results = json.loads((run / "results.json").read_text())
    table = data["tables"][0]
    assert [row["name"] for row in table["rows"]] == [
        "before T=1",
        "before greedy",
        "after T=1",
        "after greedy",
        "oracle",
    ]
    for row in table["rows"]:
        assert row["values"][:2] == [results[row["name"]]["accuracy"], results[row["name"]]["accuracy/fact"]]
    assert data["verdict"].startswith("Held-out accuracy went from 0.250 to 0.500 (+0.250) at temperature 1")


def test_an_accuracy_that_is_missing_is_no_number_anywhere(tmp_path, capsys):
    run = runs.write_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    for name in ("after T=1", "oracle"):
        results[name]["accuracy"] = None
    (run / "results.json").write_text(json.dumps(results))
    path = run / "evaluations.jsonl"
    lines = [line | {"accuracy": None} if line["step"] else line for line in read_lines(path)]
    write_json_lines(path, lines)
    data = report.report_data(run, 10_000)
    assert not any("Damaged" in note for note in data["notes"])
    shown = {row["name"]: row["values"][0] for row in data["tables"][0]["rows"]}
    assert shown["after T=1"] is None and shown["oracle"] is None and shown["before T=1"] == 0.25
    assert data["verdict"] == (
        "Held-out accuracy went from 0.250 to 0.500 (+0.250) greedily. "
        "What became of it at temperature 1 is not known: an evaluation got no answers."
    )
    held_out = {line["name"]: line["y"] for line in data["charts"][0]["series"]}
    assert held_out == {"T=1": [0.25, None], "greedy": [0.25, None], "oracle": [None, None]}
    plot_run(run / "curves.png", [], lines, {"oracle": None, "rag": 0.5}, "a run")
    write_figures(run / "figures", data["charts"])
    evaluation = Evaluation(results["after T=1"], [])
    assert headline("after", {"T=1": evaluation}) == "after: held-out accuracy T=1 missing: no answers"
    print_comparison("a run", results, Config())
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "after T=1" in line or "oracle" in line]
    assert ["–" in row for row in rows] == [True, True] and not any("0.000" in row for row in rows)


def test_a_sample_of_rollouts_is_in_the_report_as_recorded(run, data):
    strings = data["strings"]
    recorded = read_lines(run / "rollouts.jsonl")
    groups = [g for g in data["groups"] if g[0] is not None]
    assert len(groups) == len(recorded)
    for record, group in random.Random(0).sample(list(zip(recorded, groups, strict=True)), 3):
        assert (group[0], strings[group[1]], strings[group[2]]) == (record["step"], record["episode"], record["source"])
        assert [strings[c] for c in group[3]] == record["chunks"]
        for sample, column in zip(record["samples"], group[4], strict=True):
            assert dict(zip(data["terms"], column[3], strict=True)) == sample["rewards"]
            assert (column[4], column[5]) == (sample["total"], sample["advantage"])
            for answer, compact in zip(sample["answers"], column[2], strict=True):
                assert (strings[compact[1]], strings[compact[4]], compact[5]) == (
                    answer["question"], answer["answer"], answer["score"],
                )  # fmt: skip
                assert [[strings[r[0]], r[1], strings[r[2]]] for r in compact[7]] == [
                    [r["id"], r["step"], r["text"]] for r in answer["retrieved"]
                ]
    held_out = [g for g in data["groups"] if g[0] is None]
    assert [strings[c[0]] for c in held_out[0][4]] == [
        "before T=1", "before greedy", "after T=1", "after greedy", "baseline oracle",
    ]  # fmt: skip


def test_no_text_can_leave_its_place_in_the_page(run):
    page = write_report(run).read_text("utf-8")
    assert "window.hacked" in page and "<script>window.hacked" not in page and "<b>bold" not in page
    assert page.count("</script>") == 2


def test_a_large_run_is_sampled_and_says_so(tmp_path):
    run = runs.write_run(tmp_path, episodes=60, questions=10, steps=12, nasty="x" * 60_000)
    path = write_report(run)
    data = embedded(path)
    assert path.stat().st_size <= MAX_BYTES
    shown = [g for g in data["groups"] if g[0] is None]
    (note,) = [n for n in data["notes"] if "held-out" in n]
    assert 0 < len(shown) < 60 and note.startswith(f"Sampled: {len(shown)} of 60 held-out episodes")
    names = [data["strings"][g[1]] for g in shown]
    assert names[0] == "episode-0" and names[-1] == "episode-59"  # evenly, both ends included


def test_what_fits_is_never_sampled():
    assert evenly([5, 5, 5], 15) == [0, 1, 2]
    assert evenly([5] * 100, 50)[::9] == [0, 99]
    assert evenly([5], 0) == [0] and evenly([], 10) == []


def test_long_series_are_thinned_to_their_ends(tmp_path):
    lines = [{"step": s, "accuracy": s / 5000} for s in range(5000)]
    (chart,) = charts.run_charts(lines, [], [], {})
    series = chart["series"][0]
    assert len(series["x"]) == charts.MAX_POINTS and (series["x"][0], series["x"][-1]) == (0, 4999)
    assert all(y == x / 5000 for x, y in zip(series["x"], series["y"], strict=True))


def test_a_run_that_has_just_begun_has_a_report_too(tmp_path):
    run = runs.write_run(tmp_path, steps=0)
    (run / "results.json").unlink()
    JsonLines(run / "evaluations.jsonl", keep_below=0)
    assert embedded(write_report(run))["tables"][0]["rows"] == []


def test_the_command_writes_the_file_and_names_mistakes(tmp_path, capsys):
    run = runs.write_run(tmp_path / "run")
    assert main.main(["report", f"--workdir={run}", f"--out={tmp_path / 'page.html'}"]) == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert main.main(["report", f"--workdir={tmp_path / 'none'}"]) == 2
    assert "no run in" in capsys.readouterr().err


def test_a_report_replaces_a_report_and_no_other_file(tmp_path, capsys):
    run = runs.write_run(tmp_path / "run")
    for _ in range(2):
        assert main.main(["report", f"--workdir={run}", f"--out={tmp_path / 'page.html'}"]) == 0
    before = (run / "config.json").read_bytes()
    assert main.main(["report", f"--workdir={run}", f"--out={run / 'config.json'}"]) == 2
    assert "a file that is no report is there" in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == before


def test_the_curves_are_written_as_figures_and_data(run, data, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        assert main.main(["report", f"--workdir={run}", f"--out={tmp_path / 'page.html'}", f"--figures={folder}"]) == 0
    names = {path.name for path in folders[0].iterdir()}
    assert {f"reward_terms.{suffix}" for suffix in ("png", "svg", "csv")} <= names and len(names) == 3 * len(
        data["charts"]
    )
    with (folders[0] / "reward_terms.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["series"] == "format"]
    logged = [line["reward/format"] for line in read_lines(run / "metrics.jsonl")]
    assert [float(row["value"]) for row in rows] == logged and [int(row["step"]) for row in rows] == list(range(5))
    assert (folders[0] / "reward_terms.png").read_bytes().startswith(b"\x89PNG")
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_one_bad_byte_costs_the_record_it_is_in_and_the_page_says_so(tmp_path):
    run = runs.write_run(tmp_path)
    files = ("heldout/episodes.jsonl", "heldout/after greedy.jsonl", "rollouts.jsonl", "metrics.jsonl", "timings.jsonl")
    for name in files:
        lines = (run / name).read_bytes().split(b"\n")
        lines[1] = lines[1].replace(b'"', b"\xff", 1)
        (run / name).write_bytes(b"\n".join(lines))
    page = embedded(write_report(run))
    assert len(page["groups"]) == 7  # of four held-out episodes and five groups
    assert [len(g[4]) for g in page["groups"] if g[0] is None] == [5, 5, 5]
    assert {note for note in page["notes"] if note.startswith("Damaged")} == {
        "Damaged: 1 of 4 records of episodes.jsonl cannot be read and is left out.",
        "Damaged: 1 of 5 records of rollouts.jsonl cannot be read and is left out.",
        "Damaged: 1 of 5 lines of metrics.jsonl cannot be read and is left out.",
        "Damaged: 1 of 5 lines of timings.jsonl cannot be read and is left out.",
    }
    (accuracy,) = [chart for chart in page["charts"] if chart["title"] == "Accuracy in training"]
    assert accuracy["series"][0]["x"] == [0, 2, 3, 4]  # what stands behind the bad line is there


@pytest.mark.parametrize("name", ["config.json", "results.json"])
@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b'{"a": {"accuracy": "x"}}', b'{"train": 3}', b"\xff{}"])
def test_a_damaged_object_is_left_out_and_said(tmp_path, name, content):
    run = runs.write_run(tmp_path)
    (run / name).write_bytes(content)
    page = embedded(write_report(run))
    assert len(page["groups"]) == 9
    if name == "results.json":
        assert any("of results.json cannot be read" in note for note in page["notes"])
        assert [row["name"] for row in page["tables"][0]["rows"]] == [
            "before T=1",
            "before greedy",
            "after T=1",
            "after greedy",
        ]


def test_a_turn_of_another_role_or_about_another_chunk_says_so():
    strings = Strings()
    step = {"text": "x", "finish": "stop", "operations": [], "removed": [], "written": [], "memory_tokens": 0}
    prompts = Prompts(strings)
    assert len(compact_step(step, strings, prompts)) == 6  # writes about the chunk of its place, as most do
    searching = compact_step({**step, "role": "search", "prompt": [0, "find"]}, strings, prompts)
    assert [searching[6][0], strings.texts[searching[6][1]], strings.texts[searching[7]]] == [0, "find", "search"]
    assert compact_step({**step, "chunk": 0}, strings, prompts)[6:] == [0, 0, 1]
