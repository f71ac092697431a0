"""News between processes: real processes over real sockets, without jax."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from finemem_jax import exits
from finemem_jax.config import UserError
from finemem_jax.hosts.peers import Peers, _Peer, own_address
from finemem_jax.hosts.place import Place
from finemem_jax.hosts.secret import run_secret
from tests.ports import reserve_port

SECONDS = 300.0  # for anything to happen on a busy machine

# Joins, says so, and waits for a word on its standard input: "fail", "done", "preempted", or nothing.
MEMBER = """
import sys, time
from finemem_jax import exits
from finemem_jax.hosts.place import Place
from finemem_jax.config import UserError
from finemem_jax.hosts.peers import Peers, end_now
secret, host, *numbers = sys.argv[1:]
port, processes, process, silence, start = map(float, numbers)
place = Place(f"{host}:{int(port)}", int(processes), int(process))
peers = Peers(place, bytes.fromhex(secret), silence=silence, start_timeout=start)
print("looking", flush=True)
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


SECRET = bytes(range(32))


class Run:
    """Members that have all joined, unless `wait` is False."""

    def __init__(
        self, processes: int, *, silence: float = SECONDS, start: float = SECONDS, wait: bool = True, numbers=None
    ):
        self.port = reserve_port()
        chosen = range(processes) if numbers is None else numbers
        self.members = [self.member(number, processes, silence, start) for number in chosen]
        if wait:
            assert all(self.joins(member) for member in self.members)

    def joins(self, member: subprocess.Popen) -> bool:
        return member.stdout.readline().startswith("joined")

    def member(
        self,
        number: int,
        processes: int,
        silence: float = SECONDS,
        start: float = SECONDS,
        *,
        secret: bytes = SECRET,
        host: str = "localhost",
    ) -> subprocess.Popen:
        """A process that has imported what it needs, and now looks for the others."""
        arguments = [secret.hex(), host, *(str(value) for value in (self.port, processes, number, silence, start))]
        member = subprocess.Popen(
            [sys.executable, "-c", MEMBER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert member.stdout.readline() == "looking\n", member.communicate()
        return member

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
    """What has passed is counted in ticks of this process, and while it sleeps it has none: an hour is one tick."""

    async def run() -> list[str]:
        listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        peers = Peers(Place("localhost:1", 2, 0), SECRET, silence=7.0)
        peers._peers[1] = _Peer("there", writer, heard=0)
        gone: list[str] = []

        async def lost(process: int, why: str) -> None:
            gone.append(why)

        for _ in range(7):
            await peers._tick(lost)
        assert gone == []  # however long each of them took
        await peers._tick(lost)
        writer.close()
        listening.close()
        return gone

    assert asyncio.run(run()) == ["no sign of life for 8 s (--peer-timeout): its host is down?"]


def test_an_end_that_all_agreed_on_is_no_loss():
    with Run(2) as run:
        run.say(1, "preempted")
        assert run.members[1].wait(timeout=SECONDS) == exits.PREEMPTED
        assert run.members[0].poll() is None  # it is still saving
        run.say(0, "preempted")
        assert [code for code, _ in run.ends()] == [exits.PREEMPTED] * 2


def test_a_missing_process_is_named_by_all_that_came():
    """Process 0 is here, on a clock that leaps past the limit as soon as process 2 has come: none that is a little
    late on a busy machine is missing too."""

    async def gather(run: Run) -> str:
        loop = asyncio.get_running_loop()
        peers = Peers(Place(f"localhost:{run.port}", 3, 0), SECRET, start_timeout=SECONDS, _loop=loop)
        listening = asyncio.create_task(peers._listen())
        while 2 not in peers._peers:
            await asyncio.wait([listening], timeout=0.05)
            assert not listening.done()
        now = loop.time
        loop.time = lambda: now() + SECONDS
        with pytest.raises(UserError) as refused:
            await listening
        while not peers._peers[2].is_closed:  # it goes, as it was told: that is no loss, which would end this process
            await asyncio.sleep(0.05)
        return str(refused.value)

    with Run(3, wait=False, numbers=(2,)) as run:
        said = asyncio.run(gather(run))
        ((code, error),) = run.ends()
    assert "process 1 of 3 did not come within 300 s" in said
    assert code == exits.USER_ERROR and error == f"finemem: {said}\n"


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


# --------------------------------------------------------------------------------------------------------------
# Strangers
# --------------------------------------------------------------------------------------------------------------


def connected(port: int, host: str = "localhost") -> socket.socket:
    """A stranger's connection to process 0, as soon as that listens."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection((host, port))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def say(stranger: socket.socket, message: bytes) -> None:
    """A stranger may be turned away before it has said all of it."""
    with contextlib.suppress(ConnectionError):
        stranger.sendall(message)


def hello(**differences) -> bytes:
    """What process 1 says first, without a proof, or with one that it made up."""
    said = {"kind": "news", "process": 1, "processes": 2, "host": "x", "nonce": "0", "proof": "0" * 64}
    return json.dumps(said | differences).encode() + b"\n"


STRANGERS = {
    "another protocol": b"GET / HTTP/1.1\r\n" + b"x" * 100_000,
    "no process": json.dumps({"kind": "news"}).encode() + b"\n",
    "the first process": hello(process=0),
    "the other process": hello(),
    "a process beyond the last": hello(process=7),
    "a number below 0": hello(process=-1),
    "a list": hello(process=[1]),
    "another number of processes": hello(processes=9),
    "no number": hello(processes="2"),
    "jax": hello(kind="jax"),
    "neither": hello(kind={}),
    "a proof that is none": hello(proof=5),
    "a proof of other letters": hello(proof="é"),
    "nesting": b"[" * 50_000 + b"\n",
    "null": b"null\n",
}


def test_a_stranger_at_the_port_changes_nothing():
    """None of them is a process of the run, before its beginning and after it."""
    with Run(2, wait=False, numbers=(0,)) as run:
        waiting = [connected(run.port)]  # says nothing
        for message in STRANGERS.values():
            stranger = connected(run.port)
            say(stranger, message)
            waiting.append(stranger)
        run.members.append(run.member(1, processes=2))
        assert all(run.joins(member) for member in run.members)
        for message in STRANGERS.values():
            with connected(run.port) as stranger:
                say(stranger, message)
        run.say(0, "done")
        run.say(1, "done")
        (code, error), (other, nothing) = run.ends()
        for stranger in waiting:
            stranger.close()
    assert code == other == exits.DONE and nothing == ""
    assert error.count("turned away") == 1 and "Traceback" not in error and SECRET.hex() not in error


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_told_nothing_and_reaches_nothing(name):
    """A number to prove the secret with, a refusal, and the end; of jax's service not a byte."""
    with Run(2) as run, connected(run.port) as stranger:
        say(stranger, STRANGERS[name])
        received = b""
        with contextlib.suppress(ConnectionResetError):  # what was still on its way to process 0 was not read
            while data := stranger.recv(1 << 16):
                received += data
        messages = [json.loads(line) for line in received.splitlines()]
        assert [set(message) for message in messages] in ([{"nonce"}, {"refused"}], [{"nonce"}], [])


def test_a_second_start_of_a_run_under_way_is_refused_and_the_run_goes_on():
    with Run(2) as run:
        second = run.member(1, processes=2)
        _, error = second.communicate(timeout=SECONDS)
        assert second.returncode == exits.USER_ERROR and "has begun without this one" in error
        run.say(0, "done")
        run.say(1, "done")
        assert [code for code, _ in run.ends()] == [exits.DONE] * 2


def test_a_process_with_another_secret_is_told_which_folder_to_name():
    with Run(2, wait=False, numbers=(0,)) as run:
        other = run.member(1, processes=2, secret=bytes(32))
        _, error = other.communicate(timeout=SECONDS)
        assert other.returncode == exits.USER_ERROR and error.count("\n") == 1
        assert "it does not know the secret of process 0's run: start it with the same --workdir" in error
        run.members.append(run.member(1, processes=2))
        assert all(run.joins(member) for member in run.members)


def test_a_false_process_0_is_found_out():
    """One that listens there first, asks for a proof and cannot give one."""
    said = []

    def answer(false: socket.socket) -> None:  # however often it is asked: who is asked too late is asked again
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connection, _ = false.accept()
                with connection, contextlib.suppress(OSError, ValueError):
                    connection.sendall(b'{"nonce": "0"}\n')
                    said.append(connection.makefile().readline())
                    connection.sendall(json.dumps({"proof": json.loads(said[-1])["proof"]}).encode() + b"\n")

    with socket.create_server(("127.0.0.1", 0)) as false, Run(2, wait=False, numbers=()) as run:
        threading.Thread(target=answer, args=(false,), daemon=True).start()
        run.port = false.getsockname()[1]
        run.members.append(run.member(1, processes=2))
        ((code, error),) = run.ends()
        false.shutdown(socket.SHUT_RDWR)
    assert code == exits.USER_ERROR and "is not process 0 of this run" in error
    assert said and SECRET.hex() not in "".join(said)


@pytest.mark.parametrize(
    ("coordinator", "address"),
    [("localhost:1", "127.0.0.1"), ("10.1.2.3:8476", "10.1.2.3"), ("[::1]:1", "::1"), ("gpu007:61540", None)],
)
def test_the_port_is_open_at_the_address_that_was_named(coordinator, address):
    assert own_address(coordinator) == address


def test_a_run_of_one_machine_cannot_be_reached_from_another():
    with Run(2, wait=False, numbers=(0,)) as run:
        connected(run.port).close()
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening += [line.split()[1] for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
        parts = (entry.partition(":") for entry in listening)
        found = {address for address, _, port in parts if int(port, 16) == run.port}
    assert found == {"0100007F"}  # 127.0.0.1, in the kernel's order


def test_a_runs_secret_is_made_once_and_its_owner_alone_may_read_it(tmp_path):
    made = run_secret(tmp_path / "run", 0, 1.0)
    (path,) = (tmp_path / "run").iterdir()
    assert len(made) == 32 and path.stat().st_mode & 0o777 == 0o600
    assert run_secret(tmp_path / "run", 0, 1.0) == run_secret(tmp_path / "run", 1, 1.0) == made
    assert run_secret(tmp_path / "other", 0, 1.0) != made


def test_a_secret_that_does_not_come_or_is_none_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"process 1: process 0 has left no \.run-secret in .*all hosts share"):
        run_secret(tmp_path, 1, 0.0)
    (tmp_path / ".run-secret").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="does not hold the secret of a run: remove it"):
        run_secret(tmp_path, 0, 0.0)
