"""One table of many evaluations: its numbers against slow ones, its formats, what stands below it."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.config import UserError
from finemem_jax.files import write_json_lines
from finemem_jax.reporting.comparison import read_run, table_of, write_tables

SCORES = {  # row -> (episode, source, kind, score)
    "store_all": [
        ("e1", "a", "fact", 1.0),
        ("e1", "a", "fact", 0.0),
        ("e2", "a", "fact", 1.0),
        ("e3", "b", "time", 0.5),
    ],
    "rag": [("e1", "a", "fact", 0.0), ("e1", "a", "fact", 0.0), ("e2", "a", "fact", 1.0), ("e3", "b", "time", None)],
}


def evaluated(folder, scores=None, **columns):
    for row, questions in (scores or SCORES).items():
        keys = ("episode", "source", "kind", "score")
        write_json_lines(
            folder / f"questions-{row}.jsonl", [dict(zip(keys, found, strict=True)) for found in questions]
        )
    columns = {"policy_calls": 2.0, "answer_calls": 3.0, "answer_prompt_tokens": 70.0} | columns
    (folder / "evaluation.json").write_text(json.dumps(dict.fromkeys(scores or SCORES, columns)))
    setup = {
        "command": "finemem evaluate --x=1",
        "judge": "judge: m",
        "files": {"d.jsonl": "ab"},
        "seconds": {"rag": 4.2},
    }
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "setup.json").write_text(json.dumps(setup))
    return folder


def test_means_and_paired_differences_by_hand(tmp_path):
    header, rows = table_of([read_run(evaluated(tmp_path), "r")])
    assert header == [
        "accuracy",
        "against store_all",
        "scored",
        "missing",
        "a",
        "b",
        "fact",
        "time",
        "calls",
        "tokens",
        "seconds",
    ]
    cells = {row: dict(zip(header, found, strict=True)) for row, found in rows.items()}
    # store_all: source a is the mean of 0.5 and 1, b is 0.5; rag has no answer in b
    assert cells["store_all"]["accuracy"].value == pytest.approx((0.75 + 0.5) / 2)
    assert cells["rag"]["accuracy"].value == pytest.approx(0.5) and cells["rag"]["b"].value is None
    # paired over e1 and e2 alone: -0.5 and 0
    difference = cells["rag"]["against store_all"]
    assert difference.value == pytest.approx(-0.25) and (difference.low, difference.high) == (-0.5, 0.0)
    assert cells["store_all"]["against store_all"].text() == "–"
    assert cells["store_all"]["fact"].value == pytest.approx(2 / 3) and cells["rag"]["time"].text() == "–"
    assert (cells["rag"]["calls"].text(), cells["rag"]["tokens"].text(), cells["rag"]["seconds"].text()) == (
        "5",
        "70",
        "4",
    )
    assert cells["store_all"]["seconds"].value is None
    assert (cells["rag"]["scored"].text(), cells["rag"]["missing"].text()) == ("3", "1")


def test_a_question_without_a_score_in_one_row_is_compared_in_none(tmp_path):
    scores = {"one": [0.0, 1.0, None], "two": [None, 1.0, 1.0]}  # of one episode: only the second is in both
    scores = {row: [("e1", "a", "fact", score) for score in given] for row, given in scores.items()}
    _, rows = table_of([read_run(evaluated(tmp_path, scores), "r")])
    assert rows["two"][0].value == 1.0 and rows["two"][1].value == 0.0 != 1.0 - rows["one"][0].value


def test_a_paired_interval_is_narrower_than_two_apart_and_is_its_slow_bootstrap(tmp_path):
    rng = np.random.default_rng(0)
    hard = rng.random(40)
    scores = {
        name: [(f"e{i}", "a", "fact", float(np.clip(hard[i] + shift + 0.02 * rng.normal(), 0, 1))) for i in range(40)]
        for name, shift in (("one", 0.0), ("two", 0.1))
    }
    _, rows = table_of([read_run(evaluated(tmp_path, scores), "r")])
    mean, difference = rows["two"][0], rows["two"][1]
    assert difference.low > 0 and difference.high - difference.low < 0.3 * (mean.high - mean.low)
    deltas = np.array([b[3] - a[3] for a, b in zip(scores["one"], scores["two"], strict=True)])
    drawn = np.random.default_rng(0)
    means = [np.mean([deltas[j] for j in drawn.integers(40, size=40)]) for _ in range(4000)]
    assert [difference.low, difference.high] == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.01)
    assert difference.value == pytest.approx(deltas.mean())


def test_every_format_says_the_same_and_the_files_are_named(tmp_path):
    first, second = evaluated(tmp_path / "x" / "one_run"), evaluated(tmp_path / "y" / "b|b")
    files = [str(tmp_path / f"t{suffix}") for suffix in (".md", ".csv", ".tex")]
    shown = write_tables([first, second], files, "one_run: rag")
    assert shown == (tmp_path / "t.md").read_text()
    assert "| one\\_run" not in shown and "b\\|b: store_all" in shown and "against one_run: rag" in shown
    found = hashlib.sha256((first / "questions-rag.jsonl").read_bytes()).hexdigest()
    latex = (tmp_path / "t.tex").read_text()
    for text in (shown, latex, (tmp_path / "t.csv").read_text()):
        assert found in text and "finemem evaluate --x=1" in text and "judge: m" in text and "d.jsonl sha256 ab" in text
    rows = list(csv.reader(line for line in (tmp_path / "t.csv").read_text().splitlines() if not line.startswith("#")))
    assert [row[0] for row in rows[1:]] == ["one_run: store_all", "one_run: rag", "b|b: store_all", "b|b: rag"]
    assert {len(row) for row in rows} == {34} and float(rows[1][1]) == pytest.approx(0.625)
    assert r"one\_run: rag & 0.500" in latex and latex.count(r"\\") == 5 and "--" in latex


def test_mistakes_end_in_one_line(tmp_path, capsys):
    run = evaluated(tmp_path / "run")
    for options, message in (
        (["--table=t.doc"], "t.doc must end in .md, .csv, .tex"),
        ([f"--runs={run}"], "give --table=FILE.md"),
        ([f"--runs={tmp_path / 'no'}", f"--table={tmp_path}/t.md"], "no evaluation has ended there"),
        ([f"--runs={run}", f"--table={tmp_path}/t.md", "--against=rog"], "did you mean rag?"),
    ):
        assert main.main(["evaluate", *options]) == 2
        assert message in capsys.readouterr().err
    assert main.main(["evaluate", f"--runs={run}", f"--table={tmp_path}/t.md", "--against=rag"]) == 0
    assert "against rag" in capsys.readouterr().out and (tmp_path / "t.md").is_file()


def test_an_empty_run_says_so(tmp_path):
    for damage in (None, "{}", "null", '{"rag": 3}', "{"):
        if damage is not None:
            (tmp_path / "evaluation.json").write_text(damage)
        with pytest.raises(UserError, match="no evaluation has ended there"):
            read_run(tmp_path, "x")


def test_a_damaged_account_of_the_setup_leaves_the_table(tmp_path):
    folder = evaluated(tmp_path / "run")
    for damage in ("", "null", "[1]", "\x00"):
        (folder / "evaluation" / "setup.json").write_text(damage)
        assert read_run(folder, "x").setup == {}
