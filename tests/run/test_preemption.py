"""Signals, sent for real: at once where work may be dropped, at the end of the step elsewhere, and never later than the
grace time or a second Ctrl-C, also while the main thread sits in a long call. Whole runs: tests/e2e/test_survive.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax import exits
from finemem_jax.run.preemption import Preempted, Preemption

ROOT = Path(__file__).parents[2]
SECONDS = 300  # for anything to happen on a busy machine
MONTH = 30 * 24 * 3600.0  # after a SIGTERM the grace time ends the process it came to, here that of the tests

# A call that lets other threads run and does not return for many minutes, as a compilation may.
STUCK = """
import hashlib, sys
from finemem_jax.run.preemption import Preemption
with Preemption(grace=float(sys.argv[1])):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


class Stuck:
    """A process in a long call inside `Preemption`."""

    def __init__(self, grace: float):
        self.process = subprocess.Popen(
            [sys.executable, "-c", STUCK, str(grace)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Stuck:
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        return self.process.stderr.readline()


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGTERM, exits.PREEMPTED, "SIGTERM"), (signal.SIGINT, exits.INTERRUPTED, "SIGINT")],
)
def test_a_signal_drops_what_may_be_dropped_and_waits_for_the_rest(number, code, reason):
    before = signal.getsignal(number)
    done = []
    with Preemption(grace=MONTH) as preemption:
        preemption.check(0)
        os.kill(os.getpid(), number)  # in the update: nothing is raised, the step goes on to its end
        done.append("update")
        with pytest.raises(Preempted):
            preemption.check(1)
        with pytest.raises(Preempted), preemption.interruptible():
            done.append("never")
        assert (preemption.code, preemption.reason) == (code, reason)
    with Preemption(grace=MONTH) as preemption, pytest.raises(Preempted), preemption.interruptible():
        os.kill(os.getpid(), number)
        done.append("never")
    assert done == ["update"] and signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_a_process_whose_main_thread_is_stuck():
    with Stuck(grace=10 * SECONDS) as stuck:
        stuck.process.send_signal(signal.SIGINT)
        assert stuck.line().startswith("SIGINT: saving; the process ends in 3000 s at the latest")
        stuck.process.send_signal(signal.SIGINT)
        assert stuck.process.wait(timeout=SECONDS) == exits.INTERRUPTED


def test_when_the_grace_time_is_over_a_stuck_process_ends_with_its_code():
    with Stuck(grace=0.5) as stuck:
        stuck.process.send_signal(signal.SIGTERM)
        assert stuck.line().startswith("SIGTERM: saving; the process ends in 0.5 s at the latest")
        assert stuck.process.wait(timeout=SECONDS) == exits.PREEMPTED
        assert "SIGTERM: the grace time (config.guards.grace) is over" in stuck.line()
