"""News between processes: real processes over real sockets, without jax."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from finemem_jax import exits
from tests.ports import reserve_port

SECONDS = 300.0  # for anything to happen on a busy machine

# Joins, says so, and waits for a word on its standard input: "fail", "done", "preempted", or nothing.
MEMBER = """
import sys, time
from finemem_jax import exits
from tests.ports import reserve_port
from finemem_jax.hosts.place import Place
from finemem_jax.config import UserError
from finemem_jax.hosts.peers import Peers, end_now
port, processes, process, silence, start = map(float, sys.argv[1:])
peers = Peers(Place(f"localhost:{int(port)}", int(processes), int(process)), silence=silence, start_timeout=start)
try:
    address = peers.connect()
except UserError as error:
    end_now(exits.USER_ERROR, str(error))
print("joined", address, flush=True)
word = sys.stdin.readline().strip()
codes = {"fail": exits.USER_ERROR, "done": exits.DONE, "preempted": exits.PREEMPTED}
if word not in codes:
    time.sleep(600)
peers.leave(codes[word], "config.x=1: must be\\n 2")
if word != "fail":
    peers.wait()
end_now(codes[word])
"""


class Run:
    """Members that have all joined, unless `wait` is False."""

    def __init__(
        self, processes: int, *, silence: float = 20.0, start: float = SECONDS, wait: bool = True, numbers=None
    ):
        self.port = reserve_port()
        self.members = [self.member(number, processes, silence, start) for number in (numbers or range(processes))]
        if wait:
            self.addresses = [member.stdout.readline() for member in self.members]
            assert all(line.startswith("joined") for line in self.addresses), self.addresses

    def member(self, number: int, processes: int, silence: float = 20.0, start: float = SECONDS) -> subprocess.Popen:
        arguments = [str(value) for value in (self.port, processes, number, silence, start)]
        return subprocess.Popen(
            [sys.executable, "-c", MEMBER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def say(self, process: int, word: str) -> None:
        self.members[process].stdin.write(f"{word}\n")
        self.members[process].stdin.flush()

    def ends(self) -> list[tuple[int, str]]:
        """(exit code, standard error) of each."""
        errors = [member.communicate(timeout=SECONDS)[1] for member in self.members]
        return [(member.returncode, error) for member, error in zip(self.members, errors, strict=True)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.kill()
            member.communicate()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line(victim):
    with Run(3) as run:
        run.members[victim].kill()
        ends = run.ends()
    assert ends[victim][0] == -signal.SIGKILL
    for process in {0, 1, 2} - {victim}:
        code, error = ends[process]
        assert code == exits.LOST_PEER == 76
        assert error.count("\n") == 1 and f"process {victim} of 3 on {socket.gethostname()} is gone" in error


def test_the_reason_of_a_failure_reaches_every_process():
    with Run(3) as run:
        run.say(2, "fail")
        ends = run.ends()
    assert [code for code, _ in ends] == [exits.USER_ERROR] * 3
    for process in (0, 1):
        assert ends[process][1].strip().endswith("ended with code 2: config.x=1: must be 2")


def test_a_silent_process_is_gone():
    with Run(2, silence=7) as run:
        run.members[1].send_signal(signal.SIGSTOP)
        code, error = run.members[0].wait(timeout=SECONDS), run.members[0].stderr.read()
        run.members[1].kill()
    assert code == exits.LOST_PEER and "no sign of life for 8 s (--peer-timeout)" in error


def test_a_machine_that_slept_accuses_nobody():
    with Run(2, silence=7) as run:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for member in run.members:
                member.send_signal(number)
            time.sleep(9 if number == signal.SIGSTOP else 3)
        assert [member.poll() for member in run.members] == [None, None]
        run.say(0, "done")
        run.say(1, "done")
        assert [code for code, _ in run.ends()] == [exits.DONE] * 2


def test_an_end_that_all_agreed_on_is_no_loss():
    with Run(2) as run:
        run.say(1, "preempted")
        time.sleep(2)
        assert run.members[0].poll() is None  # it is still saving
        run.say(0, "preempted")
        assert [code for code, _ in run.ends()] == [exits.PREEMPTED] * 2


def test_a_missing_process_is_named_by_all_that_came():
    with Run(3, start=10, wait=False, numbers=(0, 2)) as run:  # time for 2 to come on a busy machine
        ends = run.ends()
    assert [code for code, _ in ends] == [exits.USER_ERROR] * 2
    assert all("process 1 of 3 did not come within 10 s" in error for _, error in ends)


def test_a_process_without_process_0_says_where_it_looked():
    with Run(2, start=1, wait=False, numbers=(1,)) as run:
        ((code, error),) = run.ends()
    assert code == exits.USER_ERROR and f"nobody answers at localhost:{run.port}" in error


def test_processes_of_different_runs_refuse_each_other():
    with Run(3, wait=False, numbers=(0,)) as run:
        run.members.append(run.member(1, processes=2))
        ends = run.ends()
    assert [code for code, _ in ends] == [exits.USER_ERROR] * 2
    assert all("was started for 2 processes" in error and "for 3 (--processes)" in error for _, error in ends)


def test_a_stranger_at_the_port_is_ignored():
    with Run(2, wait=False, numbers=(0,)) as run:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                stranger = socket.create_connection(("localhost", run.port))
                break
            except OSError:
                time.sleep(0.2)
        stranger.sendall(b"GET / HTTP/1.1\r\n" + b"x" * 100_000)
        other = socket.create_connection(("localhost", run.port))
        other.sendall(json.dumps({"kind": "news"}).encode() + b"\n")
        run.members.append(run.member(1, processes=2))
        assert all(member.stdout.readline().startswith("joined") for member in run.members)
        run.say(0, "done")
        run.say(1, "done")
        assert [code for code, _ in run.ends()] == [exits.DONE] * 2
