"""`finemem evaluate`: baselines and policies, killed and gone on, with answerers that fail."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finemem_jax import evaluate as evaluation
from finemem_jax import loading, main
from finemem_jax.config import Config, plugins
from finemem_jax.corpora._build import build
from finemem_jax.evaluate import evaluate
from finemem_jax.evaluation.causes import CAUSES
from finemem_jax.files import read_lines
from finemem_jax.reporting import report
from finemem_jax.types import AnswererDown
from tests.corpora.conftest import WRITERS
from tests.fake_server import FakeServer

# But for memory systems that are made of calls to a chat model: the tiny policy follows no instructions
ALL = tuple(
    name
    for name in plugins("finemem_jax.baselines")
    if name != "mem0ai" and evaluation.baseline(name, Config()).cfg.method.name == "stream"
)
SMALL = (
    "--config.eval.episodes=6",
    "--config.eval.block=2",
    "--config.eval.temperatures=(0.0,)",
    "--config.engine.slots=4",  # one shape of everything: compiling is what costs here
    "--config.mesh.data=1",
    "--config.answerer.backoff_seconds=0.01",
)


def load(*overrides):
    return main.load_config("configs/quickstart.py", [*SMALL, *overrides])


def with_endpoint(server, *overrides):
    return load(
        "--config.answerer.name=endpoint",
        f"--config.answerer.url={server.url}",
        "--config.answerer.model=m",
        "--config.eval.baselines=('store_all', 'rag')",
        *overrides,
    )


def outputs(workdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(workdir.glob("*.json*"))}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Every baseline and the policy, once."""
    cfg = load(f"--config.eval.baselines={ALL}")
    workdir = tmp_path_factory.mktemp("everything")
    return cfg, workdir, evaluate(cfg, workdir)


def test_every_baseline_and_the_policy_are_scored(everything):
    _, workdir, found = everything
    assert set(found) == {*ALL, "greedy"}
    table = json.loads((workdir / "evaluation.json").read_text())
    accuracy = {name: row["accuracy"] for name, row in table.items()}
    assert accuracy["no_memory"] == 0 < accuracy["rag"] and accuracy["oracle"] > accuracy["greedy"] > 0
    assert accuracy["untrained"] == accuracy["greedy"]  # config.model is the policy here
    assert table["recent_k"]["memory_items"] == table["full_context"]["memory_items"] == 4  # of 4 chunks, up to 5
    assert table["memagent"]["memory_items"] <= 1 and table["mem1"]["memory_items"] <= 1
    for row in table.values():
        assert row["low"] <= row["accuracy"] <= row["high"] and row["questions"] == 42
        assert row["wrong"] == sum(row[f"failure/{c}"] for c in CAUSES)
    assert table["no_memory"]["failure/construction"] == table["no_memory"]["wrong"] == 42
    assert table["expert"]["policy_calls"] == 0 and table["greedy"]["policy_calls"] == 24
    assert table["greedy"]["policy_prompt_tokens"] > table["greedy"]["policy_completion_tokens"] > 0


def test_an_evaluation_without_an_answer_has_no_accuracy(tmp_path, capsys):
    with FakeServer(lambda question, attempt: "400") as server:
        found = evaluate(with_endpoint(server), tmp_path, policy=False)
    table = json.loads((tmp_path / "evaluation.json").read_text())
    for name in ("store_all", "rag"):
        assert table[name]["accuracy"] is None and found[name].metrics["accuracy"] is None
        assert table[name]["missing_answers"] == table[name]["questions"] == 42 and table[name]["wrong"] == 0
        assert not any(key.startswith(("low", "high", "accuracy/", "source/")) for key in table[name])
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.split()[1:2] in (["store_all"], ["rag"])]
    assert [row[3] for row in rows[:4]] == ["–"] * 4  # in the table of results and in that of the intervals
    data = report.report_data(tmp_path, 1000)
    assert [row["values"][0] for row in data["tables"][0]["rows"]] == [None, None] and data["notes"] == []


def test_every_question_is_on_record_with_what_was_retrieved_and_which_step_wrote_it(everything):
    _, workdir, found = everything
    for name in found:
        lines = read_lines(workdir / f"questions-{name}.jsonl")
        assert len(lines) == 42
        for line in lines:
            wrong = line["score"] < 0.5
            assert line["failure"] in (CAUSES if wrong else ("",))
            assert all(0 <= item["step"] < 4 and item["text"] for item in line["retrieved"])
    whole = read_lines(workdir / "questions-full_context.jsonl")
    assert all([item["step"] for item in line["retrieved"]] == [0, 1, 2, 3] for line in whole)


def test_a_corpus_built_from_raw_data_is_evaluated_with_every_baseline(tmp_path):
    corpus, raw = str(tmp_path / "squad.parquet"), tmp_path / "raw"
    raw.mkdir()
    WRITERS["squad"](raw)
    build(source="squad", input=str(raw), output=corpus, split="all", chunk_tokens=40, chunks=3, instances=2)
    cfg = load(
        f"--config.eval.baselines={ALL}",
        "--config.data.name=memalpha",
        f"--config.data.path={corpus}",
        f"--config.data.eval_path={corpus}",
        "--config.prompt.max_prompt_tokens=640",
        "--config.engine.cache_tokens=704",
    )
    found = evaluate(cfg, tmp_path / "eval", policy=False)
    assert set(found) == set(ALL)
    assert found["no_memory"].metrics["accuracy"] == 0.0 and found["store_all"].metrics["memory_items"] > 2
    assert all(record["source"] == "squad" for evaluation in found.values() for record in evaluation.records)


def test_an_evaluation_says_which_sources_overlap_training_data(tmp_path, capsys):
    corpus, raw = tmp_path / "squad.parquet", tmp_path / "raw"
    raw.mkdir()
    WRITERS["squad"](raw)
    build(source="squad", input=str(raw), output=str(corpus), split="all", chunk_tokens=40, chunks=3, instances=2)
    rows = pq.read_table(corpus).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"data_source": "ruler_qa1_197K"} for row in rows]), corpus)
    given = (
        "--config.data.name=memalpha",
        f"--config.data.eval_path={corpus}",
        "--config.eval.baselines=('no_memory',)",
    )
    evaluate(load(*given), tmp_path / "eval", policy=False)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("contamination: ")]
    assert "ruler_qa1_197K" in line and "squad" in line


def test_a_second_evaluation_is_the_same_byte_for_byte_and_a_finished_one_is_not_played_again(
    everything, tmp_path, monkeypatch
):
    cfg, workdir, _ = everything
    fresh = load("--config.eval.baselines=('store_all', 'expert', 'mem1')")
    evaluate(fresh, tmp_path)
    for name in (
        "questions-store_all.jsonl",
        "questions-expert.jsonl",
        "questions-mem1.jsonl",
        "questions-greedy.jsonl",
    ):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()
    before = outputs(workdir)
    monkeypatch.setattr(loading.OpenPolicies, "open", lambda *_: pytest.fail("a policy is opened"))
    evaluate(cfg, workdir)
    assert outputs(workdir) == before


def test_an_evaluation_cut_off_anywhere_goes_on_to_the_same_table(tmp_path):
    cfg = load("--config.eval.baselines=('store_all', 'expert')")
    evaluate(cfg, tmp_path / "whole", policy=False)
    before = outputs(tmp_path / "whole")
    rng = random.Random(3)
    for trial in range(8):
        workdir = tmp_path / f"cut-{trial}"
        shutil.copytree(tmp_path / "whole", workdir)
        for path in (workdir / "evaluation").glob("*.jsonl"):
            data = path.read_bytes()
            path.write_bytes(data[: rng.randrange(len(data))])
        for name in before:
            (workdir / name).unlink()
        evaluate(cfg, workdir, policy=False)
        assert outputs(workdir) == before


def test_records_of_another_config_are_not_reused(tmp_path):
    one, two = (
        load("--config.eval.baselines=('store_all',)"),
        load("--config.eval.baselines=('store_all',)", "--config.retrieval.k=1"),
    )
    first = evaluate(one, tmp_path, policy=False)["store_all"].records
    second = evaluate(two, tmp_path, policy=False)["store_all"].records
    assert first != second and all(len(q["retrieved"]) <= 1 for record in second for q in record["questions"])


def test_killed_with_sigkill_and_started_again_no_question_is_asked_twice(tmp_path):
    with FakeServer() as server:
        server.reply = lambda question: question.split()[-1]
        evaluate(with_endpoint(server), tmp_path / "whole", policy=False)
        whole, asked = outputs(tmp_path / "whole"), len(server.seen)
        assert asked == len(set(json.dumps(body["messages"]) for body in server.bodies))
        server.seen.clear(), server.bodies.clear()

        arguments = [a for a in SMALL if "temperatures" not in a]
        command = [sys.executable, "-m", "finemem_jax.main", "evaluate", "--config=configs/quickstart.py", *arguments]
        command += ["--baselines-only", f"--workdir={tmp_path / 'killed'}", "--config.answerer.name=endpoint"]
        command += [
            f"--config.answerer.url={server.url}",
            "--config.answerer.model=m",
            "--config.answerer.concurrency=2",
        ]
        command += ["--config.eval.baselines=('store_all', 'rag')", "--config.eval.temperatures=(0.0,)"]
        # Half of the questions are answered; the next ones wait for the kill, however slow this machine is.
        is_killed = threading.Event()
        server.reply = lambda question: (len(server.seen) > asked // 2 and is_killed.wait()) or question.split()[-1]
        process = subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while len(server.seen) <= asked // 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        is_killed.set()
        server.reply = lambda question: question.split()[-1]
        assert asked // 2 < len(server.seen) <= asked // 2 + 3  # two connections
        evaluate(with_endpoint(server), tmp_path / "killed", policy=False)
    assert outputs(tmp_path / "killed") == whole
    # those under way when it was killed had no reply yet: at most one per connection is asked again
    assert len(server.seen) <= asked + 2


def test_a_server_that_fails_makes_answers_missing_and_a_later_run_fills_them_in(tmp_path):
    is_ill = True
    with FakeServer() as server:
        server.behave = lambda question, attempt: "400" if is_ill and len(question) % 3 == 0 else "ok"
        server.reply = lambda question: "no idea"
        cfg = with_endpoint(server)
        row = evaluate(cfg, tmp_path, policy=False)["store_all"].metrics
        lines = read_lines(tmp_path / "questions-store_all.jsonl")
        missing = [line for line in lines if line["score"] is None]
        assert 0 < row["missing_answers"] == len(missing) < 42
        assert all((line["failure"], line["problem"]) == ("missing", "HTTP 400") for line in missing)
        assert row["wrong"] == 42 - len(missing)  # nothing is counted wrong because a server failed
        is_ill = False
        asked = len(server.seen)
        row = evaluate(cfg, tmp_path, policy=False)["store_all"].metrics
    assert row["missing_answers"] == 0 and row["wrong"] == 42
    assert len(server.seen) - asked < asked  # only what was missing


def test_a_server_that_stays_away_ends_the_evaluation_with_everything_saved(tmp_path):
    with FakeServer() as server:
        server.behave = lambda question, attempt: "ok" if len(server.seen) < 30 else "503"
        server.reply = lambda question: "no idea"
        cfg = with_endpoint(server, "--config.answerer.patience_seconds=0.2", "--config.answerer.concurrency=1")
        with pytest.raises(AnswererDown):
            evaluate(cfg, tmp_path, policy=False)
        before = len(server.seen)
        server.behave = lambda question, attempt: "ok"
        evaluate(cfg, tmp_path, policy=False)
    answered = [body["messages"][1]["content"] for body in server.bodies]
    assert before >= 30 and len(answered) - len(set(answered)) < 10  # those refused before are asked again


def test_a_policy_and_its_baselines_behind_a_server(tmp_path):
    def reply(text):
        if text.startswith("<chunk>"):
            line = text.split("\n")[1].replace('"', "'")
            return f'<tool_call>\n{{"name": "memory_insert", "arguments": {{"content": "{line}"}}}}\n</tool_call>'
        state = "<think>all of it</think> Done." if "Your state" in text else "all of it"
        return state if "Next piece" in text else "an answer"

    with FakeServer() as server:
        server.reply = reply
        cfg = load(
            "--config.eval.baselines=('memagent', 'mem1')",
            "--config.eval.policy_model=p",
            "--config.model.path=",
            "--config.model.tokenizer=embedded:warm_start",
            "--config.prompt.max_prompt_tokens=640",
            "--config.engine.cache_tokens=704",
        )
        found = evaluate(cfg, tmp_path, given=server.url)
        calls = len(server.seen)
        assert evaluate(cfg, tmp_path / "again", given=server.url)["greedy"].metrics == found["greedy"].metrics
    assert found["greedy"].metrics["memory_items"] == 4 and found["greedy"].metrics["valid_operations"] == 1.0
    assert found["mem1"].metrics["memory_items"] == found["memagent"].metrics["memory_items"] == 1
    assert calls == 3 * 24 and all(
        "<tools>" in b["messages"][0]["content"]
        for b in server.bodies
        if b["messages"][1]["content"].startswith("<chunk>")
    )


def test_systems_with_prompts_of_their_own_have_the_configs_limits_and_not_the_policys(tmp_path):
    cfg = load(
        "--config.model.path=embedded:warm_start_memalpha",  # it was trained with 352 and 112 tokens
        "--config.eval.policy_model=p",
        "--config.prompt.max_prompt_tokens=900",
        "--config.prompt.max_completion_tokens=200",
        "--config.engine.cache_tokens=1100",
    )
    given = loading.load_given(cfg, "http://localhost:1/v1", tmp_path)
    cases = {"mem0_paper": (900, 200), "amem": (900, 200), "memagent": (900, 200), "untrained": (352, 112)}
    for name, expected in cases.items():
        prompt = evaluation.contestant_beside(name, given).cfg.prompt
        assert (prompt.max_prompt_tokens, prompt.max_completion_tokens) == expected


def test_a_policy_whose_server_fails_is_missing_not_wrong(tmp_path):
    with FakeServer(lambda question, attempt: "400") as server:
        unknown = ("--config.model.path=", "--config.model.tokenizer=embedded:warm_start")
        cfg = load("--config.eval.baselines=()", "--config.eval.policy_model=p", *unknown)
        row = evaluate(cfg, tmp_path, given=server.url)["greedy"].metrics
    assert row["missing_answers"] == 42 and row["wrong"] == 0


def test_the_local_answerer_and_the_judge(tmp_path):
    with FakeServer() as server:
        server.reply = lambda question: "yes"
        cfg = load(
            "--config.eval.baselines=('oracle',)",
            "--config.answerer.name=local",
            "--config.answerer.model=embedded:warm_start",
            "--config.answerer.max_tokens=8",
            "--config.answerer.context_tokens=512",
            "--config.judge.name=endpoint",
            f"--config.judge.url={server.url}",
            "--config.judge.model=j",
            "--config.judge.sources=('diary',)",
        )
        found = evaluate(cfg, tmp_path, policy=False)["oracle"]
        judged = len(server.seen)
        again = evaluate(cfg, tmp_path / "again", policy=False)["oracle"]
    assert found.metrics["accuracy"] == 1.0 and judged == 42 and again.records == found.records
    questions = found.records[0]["questions"]
    assert all(q["metric"] == "llm_judge" for q in questions) and any(q["answer"] for q in questions)
    assert found.metrics["answer_calls"] == 42 and found.metrics["answer_prompt_tokens"] > 0


def test_two_judges_one_table_and_how_it_came_about(tmp_path, capsys):
    """LongMemEval with its abstention, judged by two protocols on a real server, which disagree on one answer."""
    raw = tmp_path / "raw"
    raw.mkdir()
    WRITERS["longmemeval"](raw)
    with FakeServer() as server:
        server.reply = lambda asked: '{"label": "WRONG"}' if "Gold answer:" in asked else "yes"
        arguments = [
            "evaluate",
            "--config=configs/quickstart.py",
            f"--workdir={tmp_path / 'run'}",
            "--baselines-only",
            f"--table={tmp_path / 'table.md'}",
            *SMALL,
            "--config.eval.episodes=4",
            "--config.eval.baselines=('no_memory', 'store_all')",
            "--config.data.name=longmemeval",
            f"--config.data.eval_path={raw}",
            "--config.data.abstention=True",
            "--config.judge.name=endpoint",
            f"--config.judge.url={server.url}",
            "--config.judge.model=m",
            "--config.judge.prompt=longmemeval",
            "--config.judge.also_prompts=('locomo_mem0',)",
        ]
        assert main.main(arguments) == 0
    said = capsys.readouterr().out
    assert "how far the judges agree" in said and "judge: m, prompt longmemeval, T 0, 16 tokens" in said
    questions = read_lines(tmp_path / "run" / "questions-store_all.jsonl")
    assert [question["judges"] for question in questions] == [
        {"m longmemeval": {"score": 1.0, "label": "yes"}, "m locomo_mem0": {"score": 0.0, "label": "wrong"}}
    ] * 4
    setup = json.loads((tmp_path / "run" / "evaluation" / "setup.json").read_text())
    assert setup["command"].startswith("finemem evaluate --config=configs/quickstart.py") and len(setup["files"]) == 1
    assert set(setup["seconds"]) == {"no_memory", "store_all"} and "in our words" in setup["judge"]
    table = (tmp_path / "table.md").read_text()
    assert "| store_all | 1.000" in table and setup["judge"] in table and "locomo_mem0" in table
