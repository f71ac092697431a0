"""News between the processes of a run: who is there, who ended and why, who is gone. Imports no jax.

Process 0 listens on the coordinator's port; every other process keeps a connection to it. A process that ends with
an error says so and why; one that is killed closes its connection without a word; one whose host died falls silent.
Process 0 tells the others, and each of them prints one line and ends, whatever its main thread is waiting for.

The same port carries jax's own coordination service, through a relay in each process: jax's client ends its process
with a C++ abort and a stack trace as soon as the service's connection closes. Behind the relay it sees only silence,
and the line printed here says what happened.

    process 0                                                process 1
    jax's service <- relay <- PORT <------ "jax" ------ relay <- jax's client
                     peers <- PORT <------ "news" ----- peers

Nobody gets through the port without the run's secret (secret.py). jax's service and the relays listen on their own host
alone, where they trust whoever is on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from finemem_jax import exits
from finemem_jax.config import UserError
from finemem_jax.console import tell
from finemem_jax.hosts.place import Place
from finemem_jax.hosts.relay import pump, relay
from finemem_jax.hosts.secret import admit, introduce

LOCAL = "127.0.0.1"
TICK_SECONDS = 1.0
BEAT_TICKS = 5  # between two signs of life
FOLLOW_TICKS = 30  # for the others to end by themselves, after one ended in order and not with code 0
FLUSH_SECONDS = 5.0  # for last words to leave


@dataclass(slots=True)
class _Peer:
    """The other end of a connection."""

    host: str
    writer: asyncio.StreamWriter
    heard: int  # tick at which it last said anything
    has_ended: bool = False  # in order: it said so
    is_closed: bool = False


@dataclass(slots=True)
class Peers:
    """`connect`, run, then `leave`. Everything else happens in a thread of its own.

    silence: seconds without a sign of life after which a process counts as gone. Only seconds in which this process
    itself was running are counted, so that a machine that was suspended accuses nobody when it wakes up.
    """

    place: Place
    secret: bytes
    silence: float = 45.0
    start_timeout: float = 60.0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _peers: dict[int, _Peer] = field(default_factory=dict)
    _tasks: set[asyncio.Task] = field(default_factory=set)  # asyncio itself keeps no reference to them
    _refusal: UserError | None = None  # why the run cannot start
    _service: int = 0  # process 0: port of jax's service on this host
    _ticks: int = 0
    _deadline: tuple[int, int, str] | None = None  # tick, code and line with which this process will have to end
    _is_leaving: bool = False
    _has_begun: bool = False  # process 0: all were there, and were told to go
    _has_turned_away: bool = False  # process 0: a stranger, and has said so
    _everyone: asyncio.Event = field(default_factory=asyncio.Event)

    # ---- what the main thread calls ----

    def connect(self) -> str:
        """Returns when every process is there, with the address that jax's client (process 0: its service too) uses.

        Raises UserError when one does not come, or was started for another run."""
        threading.Thread(target=self._loop.run_forever, name="peers", daemon=True).start()
        address = self._call(self._listen() if self.place.process == 0 else self._join())
        self._call(self._start_clock())
        return address

    def leave(self, code: int, reason: str = "") -> None:
        """Tells the others that this process ends, with which code and why; returns when it is said."""
        is_failure = code in (exits.CRASHED, exits.USER_ERROR, exits.LOST_PEER)
        self._call(self._say_goodbye(code, " ".join(reason.split()), is_failure=is_failure))

    def wait(self) -> None:
        """After an end in order: returns when process 0 may end too. It holds jax's service, which the others need to
        the end of their shutdown."""
        if self.place.process == 0:
            self._call(self._wait_for_the_others())

    def _call(self, work: Coroutine) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # ---- the start ----

    async def _listen(self) -> str:
        """Process 0: opens the port and waits for all others."""
        with socket.socket() as free:  # jax takes a port, not a socket: one that is free now
            free.bind((LOCAL, 0))
            self._service = free.getsockname()[1]
        port = int(self.place.coordinator.rpartition(":")[2])
        deadline = self._loop.time() + self.start_timeout
        interface = own_address(self.place.coordinator)
        while True:
            try:
                await asyncio.start_server(self._accept, host=interface, port=port)
                break
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and interface:  # the address is another machine's that leads here
                    interface = None
                    continue
                # A run that was stopped a moment ago may still hold it.
                if error.errno != errno.EADDRINUSE or self._loop.time() > deadline:
                    raise UserError(
                        f"process 0 cannot listen on port {port} of {socket.gethostname()} ({error.strerror}): stop "
                        "what uses it, or choose another port (--coordinator)"
                    ) from None
                await asyncio.sleep(TICK_SECONDS)
        try:
            await asyncio.wait_for(self._everyone.wait(), self.start_timeout)
        except TimeoutError:
            missing = sorted(set(range(1, self.place.processes)) - self._peers.keys())
            names = ", ".join(map(str, missing))
            self._refuse(
                f"process {names} of {self.place.processes} did not come within {self.start_timeout:g} s: start it "
                "with the same --coordinator, or raise --start-timeout"
            )
        if self._refusal:
            await self._flush()
            raise self._refusal
        self._has_begun = True
        self._tell_all({"go": socket.gethostname()})
        return f"{LOCAL}:{self._service}"

    def _refuse(self, why: str) -> None:
        self._refusal = UserError(why)
        self._tell_all({"refused": why})
        self._everyone.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Process 0: a connection. Who does not know the secret is turned away, and changes nothing."""
        try:
            hello = await admit(reader, writer, self.secret)
        except OSError:
            writer.close()
            return
        if hello is None:
            self._turn_away(writer)
            return
        process, processes, host = hello["process"], hello["processes"], hello["host"]
        if hello["kind"] == "jax":
            await relay(reader, writer, LOCAL, self._service)
            return
        known = self._peers.get(process)
        if self._has_begun:  # somebody started one more of a run that is under way: the run goes on without it
            _send(writer, {"refused": f"the run of {self.place.processes} processes has begun without this one"})
            writer.close()
            return
        if processes != self.place.processes:
            self._refuse(
                f"process {process} on {host} was started for {processes} processes, process 0 on "
                f"{socket.gethostname()} for {self.place.processes} (--processes)"
            )
        elif process == 0 or known:
            other = known.host if known else socket.gethostname()
            self._refuse(f"two processes say they are process {process}, on {other} and on {host} (--process)")
        if self._refusal:
            _send(writer, {"refused": str(self._refusal)})
            return
        self._peers[process] = _Peer(host, writer, self._ticks)
        if len(self._peers) == self.place.processes - 1:
            self._everyone.set()
        await self._hear(process, reader)

    def _turn_away(self, writer: asyncio.StreamWriter) -> None:
        _send(writer, {"refused": "it does not know the secret of process 0's run: start it with the same --workdir"})
        writer.close()
        if not self._has_turned_away:
            self._has_turned_away = True
            address = (writer.get_extra_info("peername") or ("?",))[0]
            tell(
                f"finemem: a connection from {address} to the coordinator's port was turned away: it does not know the "
                "secret of this run (said once)",
                file=sys.stderr,
                flush=True,
            )

    async def _join(self) -> str:
        """Every other process: connects to process 0 and waits until all are there."""
        host, _, port = self.place.coordinator.rpartition(":")
        deadline = self._loop.time() + self.start_timeout
        while True:
            try:
                reader, writer = await self._open("news", host, int(port))
                break
            except OSError as error:
                if self._loop.time() > deadline:
                    raise UserError(
                        f"process {self.place.process}: nobody answers at {self.place.coordinator} "
                        f"({error.strerror or error}) within {self.start_timeout:g} s: is process 0 running there, and "
                        "may its port be reached (--coordinator, --start-timeout)?"
                    ) from None
                await asyncio.sleep(TICK_SECONDS / 4)
        # Process 0 waits as long for the last one, from its own start on, and then says who is missing.
        try:
            line = await asyncio.wait_for(reader.readline(), 2 * self.start_timeout + FLUSH_SECONDS)
        except (TimeoutError, OSError):
            line = b""
        message = _parsed(line)
        if "go" not in message:
            raise UserError(message.get("refused") or f"process 0 at {self.place.coordinator} ended before the start")
        self._peers[0] = _Peer(message["go"], writer, self._ticks)
        self._keep(self._hear(0, reader))

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, UserError):
                upstream = await self._open("jax", host, int(port))
                await pump(reader, writer, *upstream)

        relay = await asyncio.start_server(accept, host=LOCAL, port=0)
        return f"{LOCAL}:{relay.sockets[0].getsockname()[1]}"

    async def _open(self, kind: str, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(host, port)
        who = {"kind": kind, "process": self.place.process, "processes": self.place.processes}
        await introduce(reader, writer, self.secret, who | {"host": socket.gethostname()})
        return reader, writer

    # ---- the run ----

    async def _start_clock(self) -> None:
        self._keep(self._watch())

    def _keep(self, work: Coroutine) -> None:
        self._tasks.add(asyncio.create_task(work))

    async def _watch(self) -> None:
        """Gives signs of life, and misses those of others."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self._tick(self._lost)
            if self._deadline and self._ticks >= self._deadline[0]:
                await self._end(*self._deadline[1:])

    async def _tick(self, lost: Callable[[int, str], Awaitable[None]]) -> None:
        """One second in which this process was running; `lost` hears of those who have said nothing for too many."""
        self._ticks += 1
        if self._ticks % BEAT_TICKS == 0:
            self._tell_all({"alive": True})
        for process, peer in list(self._peers.items()):
            silent = (self._ticks - peer.heard) * TICK_SECONDS
            if not peer.has_ended and silent > self.silence:
                await lost(process, f"no sign of life for {silent:.0f} s (--peer-timeout): its host is down?")

    async def _hear(self, process: int, reader: asyncio.StreamReader) -> None:
        """Listens to one connection to its end."""
        peer = self._peers[process]
        with contextlib.suppress(OSError, ValueError, KeyError):
            while line := await reader.readline():
                peer.heard = self._ticks
                message = _parsed(line)
                if "end" in message:  # from that process itself
                    await self._ended(process, message["end"], message["reason"], message["failed"])
                elif "fatal" in message:  # from process 0, about another
                    await self._end(message["fatal"], message["line"])
        peer.is_closed = True
        if not peer.has_ended:
            await self._lost(process, "its connection closed: it was killed, or its host went down")

    async def _ended(self, process: int, code: int, reason: str, failed: bool) -> None:
        self._peers[process].has_ended = True
        line = f"{self._name(process)} ended with code {code}: {reason}"
        if failed:
            await self._end(code, line)
        elif code != exits.DONE and self._deadline is None:
            # All of them agreed to end here, and a little time may pass between the first and the last.
            self._deadline = (self._ticks + FOLLOW_TICKS, code, line)

    async def _lost(self, process: int, why: str) -> None:
        if self._refusal:  # it was told to go, and this process says why itself
            return
        if not self._everyone.is_set() and self.place.process == 0:  # still gathering: it may come again
            self._peers.pop(process, None)
            return
        await self._end(
            exits.LOST_PEER,
            f"{self._name(process)} is gone: {why}. Start all processes again with the same --workdir: the run "
            f"resumes at its newest checkpoint (exit code {exits.LOST_PEER})",
        )

    def _name(self, process: int) -> str:
        return f"process {process} of {self.place.processes} on {self._peers[process].host}"

    async def _end(self, code: int, line: str) -> None:
        """The end of this process, whatever its main thread is doing; the others hear of it first."""
        if self._is_leaving:
            return
        self._is_leaving = True
        if self.place.process == 0:
            self._tell_all({"fatal": code, "line": line})
            await self._flush()
        end_now(code, line)

    # ---- the end ----

    async def _say_goodbye(self, code: int, reason: str, *, is_failure: bool) -> None:
        self._is_leaving = True
        if is_failure and self.place.process == 0:
            line = f"process 0 of {self.place.processes} on {socket.gethostname()} ended with code {code}: {reason}"
            self._tell_all({"fatal": code, "line": line})
        else:
            self._tell_all({"end": code, "reason": reason, "failed": is_failure})
        await self._flush()

    async def _wait_for_the_others(self) -> None:
        until = self._ticks + FOLLOW_TICKS
        while self._ticks < until and not all(peer.is_closed for peer in self._peers.values()):
            await asyncio.sleep(TICK_SECONDS / 10)

    def _tell_all(self, message: dict[str, Any]) -> None:
        for peer in self._peers.values():
            _send(peer.writer, message)

    async def _flush(self) -> None:
        """Returns when what was said has left this process, or after FLUSH_SECONDS."""
        drains = [peer.writer.drain() for peer in self._peers.values()]
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(asyncio.gather(*drains, return_exceptions=True), FLUSH_SECONDS)


def end_now(code: int, line: str = "") -> None:
    """Ends the process at once: no exit handler runs, for jax's own would wait for processes that are gone."""
    if line:
        tell(f"finemem: {line}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def own_address(coordinator: str) -> str | None:
    """The one address at which process 0 listens, where "HOST:PORT" names one by number; None: at all of its host's.

    A name may stand for another interface on each host, and for none of them on its own."""
    host = coordinator.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return LOCAL
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _parsed(line: bytes) -> dict[str, Any]:
    """A message; an empty one for what is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        writer.write(json.dumps(message).encode() + b"\n")
