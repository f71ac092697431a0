"""A run that is killed, terminated or alarmed goes on, or ends, as it should. Small here; the long versions are
`-m slow` and the commands in the harness files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax import exits, main
from finemem_jax.reporting.records import read_lines

HARNESS = Path(__file__).with_name("kill_harness.py")
MEMORY = Path(__file__).with_name("memory_harness.py")


def harness(path: Path, *arguments: str) -> dict:
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_that_is_killed_terminated_and_interrupted_ends_like_one_that_nobody_touched(tmp_path):
    """Exit codes 75 and 130 with everything saved included: the harness raises when one is another."""
    found = harness(
        HARNESS, "--kills=3", "--steps=5", "--signals=KILL,TERM,INT", "--phases=update,log,rollout", f"--out={tmp_path}"
    )
    assert found["kills"] == 3 and found["differ"] == []
    assert {hit.split()[0] for hit in found["hits"]} == {"KILL", "TERM", "INT"}


@pytest.mark.slow
def test_a_run_killed_over_and_over_ends_like_one_that_nobody_touched(tmp_path):
    found = harness(HARNESS, "--kills=32", "--damage=0.25", f"--out={tmp_path}")
    assert found["kills"] == 32 and found["differ"] == []
    assert {"rollout", "update", "checkpoint", "log", "evaluate", "export"} <= found["by_phase"].keys()
    assert found["torn_lines"] and found["damaged_checkpoints"] and found["fell_back"]


@pytest.mark.slow
def test_a_run_terminated_and_interrupted_over_and_over_ends_like_one_that_nobody_touched(tmp_path):
    found = harness(HARNESS, "--kills=12", "--signals=TERM,INT,INT2", f"--out={tmp_path}")
    assert found["kills"] == 12 and found["differ"] == []


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_steps(tmp_path):
    found = harness(MEMORY, "--steps=2000", f"--out={tmp_path}")
    assert found["host_growth_share"] < 0.02 and found["device_growth_share"] < 0.02


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
