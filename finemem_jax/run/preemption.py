"""SIGTERM, Ctrl-C and preemption notices: save within the grace time, then end with a code of their own.

One process: the signal raises `Preempted` at once where nothing is half done (rollouts, evaluation: they are redone,
bit for bit, after the restart), and at the end of the step elsewhere. Several processes: jax's preemption service
takes the signal and agrees on a step that all of them reach, so that they save the same one.

A thread of its own counts the grace time from the moment the signal comes, also while the main thread sits in a long
call of the compiler or of the device. When it is over the process ends, with whatever checkpoint is complete.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from finemem_jax import exits
from finemem_jax.console import tell

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None  # what signal.signal takes and returns


class Preempted(BaseException):
    """Raised in the main thread. Not an Exception: nothing on its way may take it for an error and go on."""


class Preemption:
    """`with Preemption(grace) as preemption:` around a run, in the main thread."""

    def __init__(self, grace: float):
        """grace: seconds from the signal to the end of the process."""
        self._grace = grace
        self._signal: int | None = None
        self._may_raise = False
        self._previous: dict[int, Handler] = {}

    @property
    def code(self) -> int:
        """The exit code of a run that ends for it."""
        return exits.INTERRUPTED if self._signal == signal.SIGINT else exits.PREEMPTED

    @property
    def reason(self) -> str:
        return signal.Signals(self._signal).name if self._signal else "a preemption notice"

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._received)
            self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._count_down, name="grace time", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous = {}
            # Ends the thread. After a SIGTERM it goes on: a thread that waits for an answerer must not keep the
            # process alive beyond the grace time.
            if self._signal != signal.SIGTERM:
                self._writer.close()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around work that may be dropped at any point and done again."""
        self._may_raise = True
        try:
            if self._signal:
                raise Preempted
            yield
        finally:
            self._may_raise = False

    def check(self, step: int) -> None:
        """Raises Preempted when the run shall end before `step`. Every process calls it at every step."""
        # With several processes True only at the step that jax has agreed on with all of them.
        if self._signal or (jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)):
            raise Preempted

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number == signal.SIGINT:  # the second Ctrl-C of somebody who does not want to wait
            os._exit(exits.INTERRUPTED)
        self._signal = self._signal or number
        if self._may_raise:
            self._may_raise = False
            raise Preempted

    def _count_down(self) -> None:
        """Runs in a thread: the interpreter writes the number of a signal to the socket when it comes."""
        with self._reader:
            while received := self._reader.recv(1):
                if received[0] in SIGNALS:
                    break
            else:
                return
            name = signal.Signals(received[0]).name
            tell(f"{name}: saving; the process ends in {self._grace:g} s at the latest", file=sys.stderr, flush=True)
            self._reader.settimeout(self._grace)
            try:
                while further := self._reader.recv(1):  # empty once the run is over
                    # Here, too: while the main thread sits in a long call its handler sees two Ctrl-C as one, later.
                    if received[0] == further[0] == signal.SIGINT:
                        os._exit(exits.INTERRUPTED)
                return
            except TimeoutError:
                pass
        tell(
            f"{name}: the grace time (config.guards.grace) is over; the newest complete checkpoint counts",
            file=sys.stderr,
            flush=True,
        )
        os._exit(exits.INTERRUPTED if received[0] == signal.SIGINT else exits.PREEMPTED)
