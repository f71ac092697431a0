"""The stall watchdog: says where every thread is and what the engine was doing when no step finished in time.

It also keeps WORKDIR/heartbeat.json, what the run is doing now, for whoever watches from outside.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from finemem_jax import exits
from finemem_jax.config import GuardConfig
from finemem_jax.console import tell

HEARTBEAT = "heartbeat.json"
STALLS = "stalls.txt"


class Watchdog:
    """`with Watchdog(...) as watchdog:` around the steps; `enter` at every phase, `step_finished` after each step."""

    def __init__(
        self,
        cfg: GuardConfig,
        workdir: Path,
        describe: Callable[[], str],
        process: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """describe: one line on what the engine is doing; called from another thread. process: of several, this one;
        process 0 keeps the heartbeat. clock: seconds, from any beginning."""
        self._cfg, self._workdir, self._describe, self._process, self._clock = cfg, workdir, describe, process, clock
        self._phase, self._step = "setup", 0
        self._entered = self._finished = self._said = clock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._cfg.action != "off":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def enter(self, phase: str, step: int) -> None:
        """The run begins `phase` ("rollout", "update", …) of `step`."""
        self._phase, self._step, self._entered = phase, step, self._clock()
        if self._process:
            return
        now = datetime.datetime.now().isoformat(timespec="milliseconds")
        beat = {"step": step, "phase": phase, "since": now, "process": os.getpid()}
        temporary = self._workdir / f".{HEARTBEAT}.tmp"
        with contextlib.suppress(OSError):  # a full disk is reported where results are written
            temporary.unlink(missing_ok=True)  # were it a link, its target is not ours
            temporary.write_text(json.dumps(beat), encoding="utf-8")
            temporary.replace(self._workdir / HEARTBEAT)

    def step_finished(self) -> None:
        self._finished = self._clock()

    def look(self) -> bool:
        """Reports a stall, if there is one; again when it lasts as long once more. Returns whether it did."""
        if self._clock() - max(self._finished, self._said) <= self._cfg.limit:
            return False
        self._report()
        self._said = self._clock()
        return True

    def _watch(self) -> None:
        while not self._done.wait(min(self._cfg.limit / 10, 5.0)):
            if self.look() and self._cfg.action == "stop":  # the main thread is stuck: nobody else can end the process
                os._exit(exits.STOPPED)

    def _report(self) -> None:
        now = self._clock()
        try:
            engine = self._describe()
        except Exception as error:  # the engine is read while it works; a report without it is better than none
            engine = f"unknown ({error!r})"
        text = (
            f"alarm stall: no step finished in {now - self._finished:.0f} s (config.guards.stall.limit="
            f"{self._cfg.limit:g}); step {self._step} has been in {self._phase} for {now - self._entered:.0f} s\n"
            f"engine: {engine}\n"
        )
        text += threads()
        tell(text.rstrip("\n"), file=sys.stderr, flush=True)
        with contextlib.suppress(OSError), (self._workdir / STALLS).open("a", encoding="utf-8") as file:
            file.write(text)


def threads() -> str:
    """Where every thread of this process is, the main thread first. faulthandler would leave out what lies behind its
    hundredth thread, and a run with many answers under way has more. The source itself is not read: it may lie on the
    disk that does not answer."""
    frames, main = sys._current_frames(), threading.main_thread()
    text = ""
    for thread in sorted(threading.enumerate(), key=lambda thread: thread is not main):
        if thread.ident in frames:
            text += f"\nthread {thread.name} (most recent call first):\n"
            places = traceback.walk_stack(frames[thread.ident])
            text += "".join(
                f'  File "{frame.f_code.co_filename}", line {line} in {frame.f_code.co_name}\n'
                for frame, line in places
            )
    return text
