"""A stall is reported with every thread's place and what the engine was doing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from finemem_jax import exits
from finemem_jax.config import GuardConfig
from finemem_jax.run.watchdog import HEARTBEAT, STALLS, Watchdog

ROOT = Path(__file__).parents[2]
SECONDS = 300.0  # for anything to happen on a busy machine


def waiting_for_the_answerer(report: Path, end: str) -> None:
    """Until the report holds `end`: how soon depends on who shares this machine."""
    deadline = time.monotonic() + SECONDS
    while not (report.exists() and end in report.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_stall_names_the_phase_the_engine_and_the_line_every_thread_is_at(tmp_path, capfd):
    with Watchdog(GuardConfig(limit=0.3), tmp_path, lambda: "12 of 64 slots decoding") as watchdog:
        watchdog.enter("rollout", 7)
        waiting_for_the_answerer(tmp_path / STALLS, "in waiting_for_the_answerer")
    for text in (capfd.readouterr().err, (tmp_path / STALLS).read_text()):
        assert "alarm stall: no step finished" in text and "step 7 has been in rollout for" in text
        assert "engine: 12 of 64 slots decoding" in text
        assert "waiting_for_the_answerer" in text
    assert json.loads((tmp_path / HEARTBEAT).read_text())["phase"] == "rollout"


def test_steps_that_finish_in_time_are_no_stall_and_one_that_does_not_is_said_once_in_each_limit(tmp_path, capfd):
    now = [1000.0]  # seconds, that pass as the test says
    watchdog = Watchdog(GuardConfig(limit=3.0), tmp_path, lambda: "idle", clock=lambda: now[0])
    for step in range(8):  # 20 s in all, each step below the limit
        watchdog.enter("rollout", step)
        now[0] += 2.5
        assert not watchdog.look()
        watchdog.step_finished()
    assert "stall" not in capfd.readouterr().err and not (tmp_path / STALLS).exists()
    watchdog.enter("update", 8)
    said = []
    for _ in range(10):
        now[0] += 1.0
        said.append(watchdog.look())
    assert said == [False, False, False, True, False, False, False, True, False, False]
    assert "no step finished in 8 s" in (tmp_path / STALLS).read_text()
    assert "step 8 has been in update for 8 s" in capfd.readouterr().err


def test_an_engine_that_cannot_be_described_does_not_hide_the_stall(tmp_path, capfd):
    with Watchdog(GuardConfig(limit=0.1), tmp_path, lambda: [][0]):
        waiting_for_the_answerer(tmp_path / STALLS, "IndexError")
    assert "engine: unknown (IndexError" in capfd.readouterr().err


def test_action_stop_ends_a_process_that_is_stuck(tmp_path):
    code = f"""
import time
from pathlib import Path
from finemem_jax.config import GuardConfig
from finemem_jax.run.watchdog import Watchdog
with Watchdog(GuardConfig(limit=0.2, action="stop"), Path({str(tmp_path)!r}), lambda: "idle"):
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == exits.STOPPED and "alarm stall" in done.stderr
