"""How steps end, and the run: with what it has computed on the disk.

The state is saved whatever exception ends a run, when it is a state to go on from: the one after `done` whole steps,
with no update of the next one in it. What then comes out is one line where a run ends on purpose or by a mistake in
what was given, and the exception itself where it is a defect, whose traceback is needed.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from finemem_jax import exits
from finemem_jax.config import UserError
from finemem_jax.decoding.request import EpisodesFailed
from finemem_jax.exits import RunEnded
from finemem_jax.hosts import agreement
from finemem_jax.rl.train_state import TrainState
from finemem_jax.run.clock import Clock
from finemem_jax.run.guards import Alarm
from finemem_jax.run.journal import Journal, say
from finemem_jax.run.preemption import Preempted, Preemption
from finemem_jax.run.watchdog import Watchdog
from finemem_jax.types import AnswererDown
from finemem_jax.weights.checkpoints import reason


@dataclass(slots=True)
class Reached:
    """How far a run has come: `state` is that after `done` steps, unless (`is_whole` False) it is one of the next."""

    state: TrainState
    done: int
    is_whole: bool = True


def end_step(reached: Reached, journal: Journal, clock: Clock, watchdog: Watchdog, alarms: Sequence[Alarm]) -> None:
    """The end of the step that was reached: its checkpoint, when one is due. Raises RunEnded, alike in all processes,
    when one of its alarms stops the run."""
    if journal.needs_checkpoint(reached.done):
        with clock.phase("checkpoint"):
            journal.save(reached.done, reached.state)
    watchdog.step_finished()
    with agreement.together():
        for alarm in alarms:
            if alarm.action == "stop":
                raise RunEnded(f"step {reached.done - 1}: {alarm}", exits.STOPPED)


@contextlib.contextmanager
def results_of(reached: Reached, journal: Journal, watchdog: Watchdog, workdir: Path) -> Iterator[None]:
    """Around the writing of a run's results, which its last checkpoint follows. Raises RunEnded when one of the two
    cannot be written."""
    watchdog.enter("export", reached.done)
    try:
        yield
    except OSError as error:
        why = f"the results of {workdir} could not be written ({reason(error)})"
        raise RunEnded(why, exits.STOPPED) from error
    if not journal.finish(reached.done, reached.state):
        raise RunEnded(f"the last checkpoint of {workdir} could not be written", exits.STOPPED)
    watchdog.enter("done", reached.done)


@contextlib.contextmanager
def saved_at_the_end(reached: Reached, journal: Journal, preemption: Preemption) -> Iterator[None]:
    """Around the steps of a run: an exception that ends them comes out as `ended` gives it."""
    try:
        yield
    except (Exception, Preempted) as error:
        end = ended(error, reached, journal, preemption)
        if end is error:
            raise
        raise end from None


def ended(error: BaseException, reached: Reached, journal: Journal, preemption: Preemption) -> BaseException:
    """Saves what was reached; what is to be raised in place of `error`."""
    done = reached.done
    if isinstance(error, FloatingPointError):  # the engine met NaN: this state is worth nothing, an older one may be
        return RunEnded(f"step {done}: {error}; not saved, older checkpoints count", exits.STOPPED)
    is_saved = _may_save(error, reached) and _saves(journal, reached)
    saved = f"saved after step {done}" if is_saved else "NOT saved, older checkpoints count"
    if isinstance(error, Preempted):
        return RunEnded(f"{preemption.reason}; {saved}; the same command goes on from there", preemption.code)
    if isinstance(error, UserError):
        return RunEnded(f"{error}; {saved}, and the run goes on from there when this is changed", exits.USER_ERROR)
    if isinstance(error, EpisodesFailed):
        for _, _, failure in error.failures[:1]:
            traceback.print_exception(failure)
    if isinstance(error, RunEnded | AnswererDown | EpisodesFailed):
        code = getattr(error, "code", exits.STOPPED)
        return RunEnded(f"{error}; {saved}; the same command goes on from there", code)
    say(f"step {done}: {type(error).__name__}; {saved}")
    return error


def _may_save(error: BaseException, reached: Reached) -> bool:
    is_gone = any(leaf.is_deleted() for leaf in jax.tree.leaves(reached.state))  # an update took the buffers
    if is_gone or not reached.is_whole:
        return False
    # All processes save, or none: the others would wait for ever for one that alone has met an error.
    return isinstance(error, Preempted) or agreement.is_known_to_all(error)


def _saves(journal: Journal, reached: Reached) -> bool:
    try:
        return journal.finish(reached.done, reached.state)
    except Exception as error:  # what ended the run is told in any case
        say(f"WARNING: the state could not be saved: {type(error).__name__}: {error}")
        return False
