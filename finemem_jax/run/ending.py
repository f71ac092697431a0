"""How a run ends that an exception ended: with what it has computed on the disk.

The state is saved whatever the exception was, when it is a state to go on from: the one after `done` whole steps, with
no update of the next one in it. What then comes out is one line where a run ends on purpose or by a mistake in what was
given, and the exception itself where it is a defect, whose traceback is needed.
"""

from __future__ import annotations

import traceback

import jax

from finemem_jax import exits
from finemem_jax.config import UserError
from finemem_jax.decoding.engine import EpisodesFailed
from finemem_jax.exits import RunEnded
from finemem_jax.hosts import agreement
from finemem_jax.rl.train_state import TrainState
from finemem_jax.run.journal import Journal, say
from finemem_jax.run.preemption import Preempted, Preemption
from finemem_jax.types import AnswererDown


def ended(
    error: BaseException, journal: Journal, done: int, state: TrainState, preemption: Preemption, *, is_whole: bool
) -> BaseException:
    """What is to be raised in place of `error`. is_whole: `state` is that after `done` steps."""
    if isinstance(error, FloatingPointError):  # the engine met NaN: this state is worth nothing, an older one may be
        return RunEnded(f"step {done}: {error}; not saved, older checkpoints count", exits.STOPPED)
    is_saved = _may_save(error, state, is_whole) and _saves(journal, done, state)
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


def _may_save(error: BaseException, state: TrainState, is_whole: bool) -> bool:
    if not is_whole or any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):  # an update took the buffers
        return False
    # All processes save, or none: the others would wait for ever for one that alone has met an error.
    return isinstance(error, Preempted) or agreement.is_known_to_all(error)


def _saves(journal: Journal, done: int, state: TrainState) -> bool:
    try:
        return journal.finish(done, state)
    except Exception as error:  # what ended the run is told in any case
        say(f"WARNING: the state could not be saved: {type(error).__name__}: {error}")
        return False
