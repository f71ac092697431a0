"""Training and `finemem evaluate` judge the same held-out episodes with the same metrics."""

from __future__ import annotations

import gzip
import json

import pytest

from finemem_jax import exits, main
from finemem_jax.benchmarks import only_a_judge_can_score
from finemem_jax.config import UserError
from finemem_jax.evaluate import evaluate
from finemem_jax.loading import load_held_out, load_rewarded
from finemem_jax.train import train
from finemem_jax.types import Question


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


RUBRICS = (
    "The user would prefer responses that suggest cultural events where they can practice Spanish.",
    "7 days. 8 days (including the last day) is also acceptable.",
    "25 minutes and 50 seconds (or 25:50)",
    "I replaced or fixed five items: the kitchen faucet, the kitchen mat, the toaster, the coffee maker, the shelves.",
)


def test_golds_that_nothing_can_match_are_no_training_reward_without_a_judge(tmp_path, capsys):
    rows = [row("lme_train", gold) for gold in (*RUBRICS, "Karl", "a lighter shade of gray")] + [
        row("squad", RUBRICS[0])
    ]
    corpus = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"4 of 6 training questions of lme_train.*config\.judge\.name") as error:
        load_rewarded(load(corpus))
    assert "\n" not in str(error.value) and "config.data.on_unjudged=skip" in str(error.value)
    kept = load_rewarded(load(corpus, "--config.data.on_unjudged=skip"))
    golds = sorted(question.answers[0] for episode in kept for question in episode.questions)
    assert golds == sorted(["Karl", "a lighter shade of gray", RUBRICS[0]])
    assert "4 of 6" in capsys.readouterr().err
    assert len(load_rewarded(load(corpus, "--config.judge.name=endpoint"))) == 7
    with pytest.raises(UserError, match="no other question is left"):
        only = write_rows(tmp_path / "only.jsonl", [row("lme_train", gold) for gold in RUBRICS])
        load_rewarded(load(only, "--config.data.on_unjudged=skip"))


def test_training_on_them_is_refused_before_the_work_and_evaluating_says_how_many(tmp_path, capsys):
    corpus = write_rows(tmp_path / "rows.jsonl", [row("longmemeval_s", RUBRICS[0]), row("longmemeval_s", "Karl")])
    command = [f"--config.data.path={corpus}", f"--config.data.eval_path={corpus}", "--config.data.name=memalpha"]
    assert (
        main.main(
            [
                "train",
                "--config=configs/quickstart.py",
                "--config.mesh.data=1",
                *command,
                f"--workdir={tmp_path / 'run'}",
            ]
        )
        == 2
    )
    assert "1 of 2 training questions" in capsys.readouterr().err
    assert len(load_held_out(load(corpus))) == 2
    assert "1 of 2 held-out questions" in capsys.readouterr().err
    load_held_out(load(corpus, "--config.judge.name=endpoint"))
    assert "held-out questions" not in capsys.readouterr().err


def test_what_only_a_judge_can_score_is_told_from_the_published_golds(real_data):
    with gzip.open(real_data / "longmemeval" / "evidence_turns_part.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = {}
    for read in rows:
        asked = Question(read["question"], (str(read["answer"]),))
        found.setdefault(read["question_type"], []).append(only_a_judge_can_score(asked))
    assert all(found["single-session-preference"]) and not any(found["single-session-user"])
    assert sum(map(sum, found.values())) == 52 and len(rows) == 240


def test_a_chunk_too_long_for_a_prompt_ends_no_run_half_way(tmp_path, capsys):
    rows = [row("squad", "Karl") for _ in range(3)]
    rows[1]["chunks"] = json.dumps(["Ada know Karl " * 400])
    corpus = write_rows(tmp_path / "rows.jsonl", rows)
    small = ("--config.train.steps=1", "--config.train.episodes=2", "--config.train.group_size=2")
    small += ("--config.eval.baselines=('store_all',)", "--config.train.mini_batches=1", "--config.data.eval_path=")
    name = r"episode 'squad-1' \(data source 'squad'\), chunk 0: its prompt has \d+ tokens"
    with pytest.raises(UserError, match=name):
        train(load(corpus, *small), tmp_path / "stop")
    assert not (tmp_path / "stop" / "metrics.jsonl").exists()
    with pytest.raises(UserError, match=name):
        evaluate(load(corpus, "--config.eval.baselines=()"), tmp_path / "evaluated")
    found = evaluate(load(corpus, "--config.eval.baselines=('rag',)"), tmp_path / "without", policy=False)
    assert found["rag"].metrics["questions"] == 3  # no prompt, no limit
    for action, said in (("split", "chunks more"), ("skip", "1 episodes")):
        train(load(corpus, *small, f"--config.data.on_long_chunk={action}"), tmp_path / action)
        assert len((tmp_path / action / "metrics.jsonl").read_text().splitlines()) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate", "sft"])
def test_the_papers_config_does_not_start_without_its_answerer(tmp_path, capsys, command):
    corpus = write_rows(tmp_path / "rows.jsonl", [row("squad", "Karl")] * 2)
    given = ["--config=configs/finemem_qwen3_4b.py", f"--workdir={tmp_path / 'run'}", f"--config.data.path={corpus}"]
    assert main.main([command, *given]) == exits.USER_ERROR
    said = capsys.readouterr().err
    assert "config.answerer.url is empty" in said and "--config.answerer.url=http://" in said
