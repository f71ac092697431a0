"""How the work of something grows with its size, in terms that no machine's speed or load changes."""

from __future__ import annotations

import time
from collections.abc import Callable

LINEAR = 30.0  # 8 times the size: 8 times the time where it is linear, 64 times where it is quadratic


def times_longer(action: Callable[[int], object], size: int, *, times: int = 8, repeats: int = 3) -> float:
    """CPU time of `action(times * size)` over that of `action(size)`, one after the other.

    The best of `repeats`: what other processes do to the caches only ever adds time. Below a millisecond the clock
    says nothing; what is faster counts as one."""

    def seconds(given: int) -> float:
        started = time.process_time()
        action(given)
        return time.process_time() - started

    measured = [(seconds(size), seconds(times * size)) for _ in range(repeats)]
    short, long = (min(column) for column in zip(*measured, strict=True))
    return long / max(short, 1e-3)
