"""Where the wall-clock time of a step goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from finemem_jax.console import Progress
from finemem_jax.run.watchdog import Watchdog


class Clock:
    """Wall-clock seconds of the phases of a step; the watchdog and the live view hear of each as it begins.

    A phase inside another is not part of its time, so the seconds of all phases sum to the step's. What the step before
    spent after its line of times was written is part of this one."""

    def __init__(self, watchdog: Watchdog, progress: Progress, step: int, before: Clock | None = None) -> None:
        self.seconds: dict[str, float] = {} if before is None else before.untold()
        self._told: dict[str, float] = {}
        self._watchdog, self._progress, self._step = watchdog, progress, step
        self._open: list[str] = []
        self._inside = 0.0  # seconds of the phases inside the one that is open

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._enter(name)
        self._open.append(name)
        started, around, self._inside = time.perf_counter(), self._inside, 0.0
        yield
        spent = time.perf_counter() - started
        key = f"seconds/{name}"
        self.seconds[key] = self.seconds.get(key, 0.0) + spent - self._inside
        self._inside = around + spent
        self._open.pop()
        if self._open:
            self._enter(self._open[-1])

    def tell(self) -> dict[str, float]:
        """The seconds so far, for the step's line of times. It is written before the checkpoint that stands on it, so
        the checkpoint's own time is told by the next line."""
        self._told = dict(self.seconds)
        return self._told

    def untold(self) -> dict[str, float]:
        """What came after `tell`."""
        rest = {name: value - self._told.get(name, 0.0) for name, value in self.seconds.items()}
        return {name: value for name, value in rest.items() if value > 0}

    def _enter(self, name: str) -> None:
        self._watchdog.enter(name, self._step)
        self._progress.doing(name)
