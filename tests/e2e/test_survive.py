"""A run that is killed, terminated or alarmed goes on, or ends, as it should. Small here; the long versions are
`-m slow` and the commands in the harness files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from finemem_jax import exits, main
from finemem_jax.files import read_lines
from finemem_jax.loading import load_policy
from finemem_jax.weights.checkpoints import Checkpoints
from tests.fake_server import FakeServer

HARNESS = Path(__file__).with_name("kill_harness.py")
SWEEP = Path(__file__).with_name("sweep_harness.py")
OTHERS = Path(__file__).with_name("kill_others.py")
MEMORY = Path(__file__).with_name("memory_harness.py")


def harness(path: Path, *arguments: str) -> dict:
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_that_is_killed_and_terminated_ends_like_one_that_nobody_touched(tmp_path):
    """Exit code 75 with everything saved included: the harness raises when it is another."""
    strikes = ("--kills=2", "--steps=4", "--signals=KILL,TERM", "--phases=update,rollout")
    found = harness(HARNESS, *strikes, f"--out={tmp_path}")
    assert found["kills"] == 2 and found["differ"] == []
    assert {hit.split()[0] for hit in found["hits"]} == {"KILL", "TERM"}


def test_a_warm_start_that_is_terminated_and_interrupted_ends_like_one_that_nobody_touched(tmp_path):
    """Exit codes 75 and 130. The long form of the harness kills it too."""
    strikes = ("--kills=2", "--steps=4", "--signals=TERM,INT", "--phases=update,pack")
    found = harness(HARNESS, "--command=sft", *strikes, f"--out={tmp_path}")
    assert found["command"] == "sft" and found["kills"] == 2 and found["differ"] == []
    assert {hit.split()[0] for hit in found["hits"]} == {"TERM", "INT"}


@pytest.mark.slow
def test_a_run_killed_while_it_writes_into_fast_weights_ends_like_one_that_nobody_touched(tmp_path):
    strikes = ("--kills=8", "--steps=14", "--signals=KILL", "--phases=rollout")
    found = harness(HARNESS, "--command=parametric", *strikes, f"--out={tmp_path}")
    assert found["kills"] == 8 and found["differ"] == []
    assert set(found["by_phase"]) == {"rollout"}


@pytest.mark.slow
def test_a_warm_start_killed_over_and_over_ends_like_one_that_nobody_touched(tmp_path):
    found = harness(HARNESS, "--command=sft", "--kills=24", "--steps=40", "--damage=0.25", f"--out={tmp_path}")
    assert found["kills"] == 24 and found["differ"] == []
    assert {"pack", "update", "checkpoint", "log", "evaluate", "export"} <= found["by_phase"].keys()
    assert found["torn_lines"] and found["damaged_checkpoints"] and found["fell_back"]


@pytest.mark.slow
def test_an_evaluation_struck_in_the_middle_of_a_contestant_ends_like_one_that_nobody_touched(tmp_path):
    found = harness(OTHERS, "evaluate", "--kills=3", f"--out={tmp_path}")
    assert found["differ"] == [] and sum(found["hits"].values()) == 3


@pytest.mark.slow
def test_an_evaluation_struck_over_and_over_ends_like_one_that_nobody_touched(tmp_path):
    found = harness(OTHERS, "evaluate", "--kills=16", "--seed=1", f"--out={tmp_path}")
    assert found["differ"] == [] and found["damaged_records"]


@pytest.mark.slow
def test_two_processes_of_which_one_is_struck_over_and_over_end_like_two_that_nobody_touched(tmp_path):
    found = harness(OTHERS, "processes", "--kills=4", f"--out={tmp_path}")
    assert found["differ"] == [] and sum(found["hits"].values()) == 4


@pytest.mark.slow
def test_a_run_killed_over_and_over_ends_like_one_that_nobody_touched(tmp_path):
    found = harness(HARNESS, "--kills=32", "--damage=0.25", f"--out={tmp_path}")
    assert found["kills"] == 32 and found["differ"] == []
    assert {"rollout", "update", "checkpoint", "log", "evaluate", "export"} <= found["by_phase"].keys()
    assert found["torn_lines"] and found["damaged_checkpoints"] and found["fell_back"]


@pytest.mark.slow
def test_a_sweep_killed_over_and_over_loses_no_row_and_leaves_no_run_behind(tmp_path):
    found = harness(SWEEP, "--kills=6", "--steps=60", f"--out={tmp_path / 'out'}")
    assert found["kills"] == 6 and found["differ"] == []
    assert found["ended_with_the_sweep"] and found["resumed"]


@pytest.mark.slow
def test_a_run_terminated_and_interrupted_over_and_over_ends_like_one_that_nobody_touched(tmp_path):
    found = harness(HARNESS, "--kills=12", "--signals=TERM,INT,INT2", f"--out={tmp_path}")
    assert found["kills"] == 12 and found["differ"] == []


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_steps(tmp_path):
    found = harness(MEMORY, "--steps=2000", f"--out={tmp_path}")
    assert found["host_growth_share"] < 0.02 and found["device_growth_share"] < 0.02


OUTAGE = (
    "--config=configs/quickstart.py",
    "--config.train.steps=2",
    "--config.train.episodes=1",
    "--config.train.group_size=2",
    "--config.train.mini_batches=1",
    "--config.train.eval_every=0",
    "--config.eval.episodes=1",
    "--config.eval.temperatures=(0.0,)",
    "--config.eval.baselines=()",
    "--config.engine.slots=4",
    "--config.mesh.data=1",
    "--config.answerer.name=endpoint",
    "--config.answerer.model=m",
    "--config.answerer.backoff_seconds=0.05",
)


@pytest.mark.slow
def test_an_answerer_that_is_away_is_waited_for_and_one_that_stays_away_ends_the_run_with_everything_saved(
    tmp_path, capfd
):
    """The run that went through both ends with the metrics of the one whose answerer was always there."""

    def train(server, folder, patience):
        options = [f"--config.answerer.url={server.url}", f"--config.answerer.patience_seconds={patience}"]
        return main.main(["train", *OUTAGE, *options, f"--workdir={tmp_path / folder}", "--accept-config-change"])

    with FakeServer() as server:
        server.reply = lambda question: question.split()[-1]
        assert train(server, "untouched", 900) == exits.DONE
        asked = len(server.seen)
        server.seen.clear(), capfd.readouterr()
        # Away for its first twenty requests, back for as many as make a step and a half, then away for good.
        server.behave = lambda question, attempt: "ok" if 20 <= len(server.seen) < 20 + asked * 0.6 else "503"
        assert train(server, "struck", 15) == exits.STOPPED
        error = capfd.readouterr().err
        assert "gave no answer for config.answerer.patience_seconds=15" in error
        assert "saved after step 1; the same command goes on from there" in error
        server.behave = lambda question, attempt: "ok"
        assert train(server, "struck", 900) == exits.DONE
        assert "resumed at step 1" in capfd.readouterr().err
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "struck" / name).read_bytes() == (tmp_path / "untouched" / name).read_bytes()


def test_an_answerer_that_answers_nothing_moves_no_parameter_and_stops_the_run(tmp_path, capfd):
    """Every request is refused, so nothing is known of any sample: neither a gradient nor weight decay may act."""
    with FakeServer(lambda question, attempt: "400") as server:
        url = f"--config.answerer.url={server.url}"
        arguments = [*OUTAGE, "--config.train.steps=4", "--config.guards.patience=2", url]
        assert main.main(["train", *arguments, f"--workdir={tmp_path}"]) == exits.STOPPED
    assert "hardly a group has a reward, because answers are missing" in capfd.readouterr().err
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["missing_rewards"] for line in lines] == [1.0, 1.0]
    assert not any(name.startswith("loss/") or name in ("reward/total", "accuracy") for name in lines[0])
    alarms = [(line["step"], line["name"], line["action"]) for line in read_lines(tmp_path / "alarms.jsonl")]
    assert alarms == [(1, "missing_rewards", "warn"), (1, "missing_rewards_stop", "stop")]
    start = load_policy(main.load_config("configs/quickstart.py", arguments[1:]))
    kept = Checkpoints(tmp_path / "checkpoints", keep=1, read_only=True).restore_params(start.params)
    jax.tree.map(np.testing.assert_array_equal, start.params, kept)


@pytest.mark.slow
def test_an_alarm_with_action_stop_saves_the_state_and_has_its_own_exit_code(tmp_path, capsys):
    """And --accept-config-change lets the run go on without it, from where it stopped."""
    overrides = [
        "--config=configs/quickstart.py",
        "--config.train.steps=3",
        "--config.train.episodes=2",
        "--config.train.group_size=4",
        "--config.train.mini_batches=2",
        "--config.train.eval_every=0",
        "--config.eval.episodes=1",
        "--config.eval.temperatures=(0.0,)",
        "--config.eval.baselines=()",
        "--config.engine.slots=8",
        "--config.mesh.data=1",
        "--config.guards.patience=2",
        "--config.guards.format_collapse.limit=1",
        f"--workdir={tmp_path / 'run'}",
    ]
    stop = "--config.guards.format_collapse.action=stop"
    assert main.main(["train", *overrides, stop]) == exits.STOPPED
    error = capsys.readouterr().err
    assert "alarm format_collapse" in error and "saved after step 2; the same command goes on from there" in error
    assert [line["step"] for line in read_lines(tmp_path / "run" / "alarms.jsonl")] == [1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()] == ["2"]
    assert main.main(["train", *overrides]) == exits.USER_ERROR
    assert "config.guards.format_collapse.action: 'stop' -> 'warn'" in capsys.readouterr().err
    assert main.main(["train", *overrides, "--accept-config-change"]) == exits.DONE
    assert "resumed at step 2" in capsys.readouterr().err
    assert [line["step"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2]
