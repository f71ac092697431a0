"""Training and `finemem evaluate` judge the same held-out episodes with the same metrics."""

from __future__ import annotations

import json

import pytest

from finemem_jax import main
from finemem_jax.config import UserError
from finemem_jax.evaluate import evaluate
from finemem_jax.loading import load_held_out
from finemem_jax.train import train


def row(source, gold):
    asked = json.dumps([{"question": "Whom does Ada know?", "answer": gold}])
    return {"data_source": source, "chunks": json.dumps(["Ada know Karl"]), "questions_and_answers": asked}


def write_rows(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def load(corpus, *overrides):
    data = ("--config.data.name=memalpha", f"--config.data.path={corpus}", f"--config.data.eval_path={corpus}")
    small = ("--config.engine.slots=2", "--config.mesh.data=1", "--config.eval.temperatures=(0.0,)")
    return main.load_config("configs/quickstart.py", [*data, *small, *overrides])


def test_a_run_judges_as_evaluate_does(tmp_path):
    # "kar" stands in "Karl" as a string, which is what the reference asks, and is none of its words
    corpus = write_rows(tmp_path / "rows.jsonl", [row("squad", "kar")] * 2)
    found = {}
    for metrics in ("strict", "reference"):
        chosen = load(
            corpus,
            "--config.train.steps=0",
            "--config.eval.baselines=('store_all',)",
            f"--config.eval.metrics={metrics}",
        )
        train(chosen, tmp_path / metrics)
        trained = json.loads((tmp_path / metrics / "results.json").read_text())["store_all"]["accuracy"]
        evaluated = evaluate(chosen, tmp_path / f"eval {metrics}", policy=False)["store_all"].metrics["accuracy"]
        assert trained == evaluated
        found[metrics] = trained
    assert found == {"strict": 0.0, "reference": 1.0}


def test_what_is_judged_is_drawn_over_all_sources_and_what_is_left_out_is_said(tmp_path, capsys):
    rows = [row(source, "Karl") for source in ("booksum",) * 30 + ("squad",) * 6 + ("zeta\x1b[31m",) * 6]
    corpus = write_rows(tmp_path / "rows.jsonl", rows)
    drawn = load_held_out(load(corpus, "--config.eval.episodes=12"))
    assert sorted(episode.source for episode in drawn)[::4] == ["booksum", "squad", "zeta\x1b[31m"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said
    assert "12 of 42 held-out episodes are judged" in said and "booksum 4 of 30, squad 4 of 6, zeta" in said
    other = load_held_out(load(corpus, "--config.eval.episodes=12", "--config.eval.seed=1"))
    assert [episode.id for episode in other] != [episode.id for episode in drawn]
    capsys.readouterr()
    assert len(load_held_out(load(corpus, "--config.eval.episodes=42"))) == 42 and not capsys.readouterr().err


def test_a_judge_that_is_missing_is_named_before_the_work(tmp_path):
    corpus = write_rows(tmp_path / "rows.jsonl", [row("longmemeval_s*", "Karl")])
    assert load_held_out(load(corpus))
    with pytest.raises(UserError, match=r"config\.judge\.name"):
        load_held_out(load(corpus, "--config.eval.metrics=reference"))
