"""Phases sum to the step, and no second is told twice or never."""

from __future__ import annotations

from finemem_jax.config import GuardConfig
from finemem_jax.console import Progress
from finemem_jax.run.clock import Clock
from finemem_jax.run.watchdog import Watchdog


def test_what_comes_after_the_line_of_a_step_is_told_by_the_next(tmp_path):
    watchdog = Watchdog(GuardConfig(action="off"), tmp_path, lambda: "")
    progress = Progress(1, "x", is_muted=True)
    first = Clock(watchdog, progress, 0)
    with first.phase("rollout"), first.phase("answer"):
        pass
    told = first.tell()
    assert set(told) == {"seconds/rollout", "seconds/answer"}
    with first.phase("checkpoint"):
        pass
    with first.phase("answer"):
        pass
    second = Clock(watchdog, progress, 1, before=first)
    after = {"seconds/checkpoint", "seconds/answer"}
    assert set(second.seconds) == after
    for name in first.seconds:
        assert told.get(name, 0.0) + second.seconds.get(name, 0.0) == first.seconds[name]
    second.tell()
    assert Clock(watchdog, progress, 2, before=second).seconds == {}
