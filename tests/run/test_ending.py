"""Whatever ends a run saves it, when there is a whole state to save, and says so."""

from __future__ import annotations

import jax
import pytest

from finemem_jax import exits
from finemem_jax.config import Config, GuardConfig, OptimizerConfig, TrainConfig, UserError
from finemem_jax.console import Progress
from finemem_jax.decoding.request import EpisodesFailed
from finemem_jax.exits import RunEnded
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.run.clock import Clock
from finemem_jax.run.ending import Reached, end_step, ended, results_of, saved_at_the_end
from finemem_jax.run.guards import Alarm
from finemem_jax.run.journal import Journal
from finemem_jax.run.preemption import Preempted, Preemption
from finemem_jax.run.watchdog import Watchdog
from finemem_jax.types import AnswererDown


@pytest.fixture
def state():
    optimizer = make_optimizer(OptimizerConfig(), updates=2)
    return create_train_state({"kernel": jax.random.normal(jax.random.key(0), (4, 4))}, optimizer)


@pytest.fixture
def journal(tmp_path, state):
    opened = Journal(Config(train=TrainConfig(steps=30)), tmp_path)
    opened.resume(state)
    return opened


FAILED = EpisodesFailed([(0, "episode 'a'", KeyError("x"))], [None])
ON_PURPOSE = [
    (RunEnded("alarm", exits.STOPPED), "alarm; saved after step 3; the same command goes on from there", exits.STOPPED),
    (AnswererDown("away"), "away; saved after step 3; the same command goes on from there", exits.STOPPED),
    (FAILED, f"{FAILED}; saved after step 3; the same command goes on from there", exits.STOPPED),
    (Preempted(), "a preemption notice; saved after step 3; the same command goes on", exits.PREEMPTED),
    (
        UserError("episode 'a', chunk 2: too long"),
        "episode 'a', chunk 2: too long; saved after step 3, and the run goes on from there when this is changed",
        exits.USER_ERROR,
    ),
]


@pytest.mark.parametrize(("error", "line", "code"), ON_PURPOSE, ids=lambda value: type(value).__name__)
def test_what_ends_a_run_on_purpose_or_by_a_mistake_is_one_line(journal, state, error, line, code):
    end = ended(error, Reached(state, 3), journal, Preemption(1.0))
    assert isinstance(end, RunEnded) and str(end).startswith(line) and "\n" not in str(end) and end.code == code
    assert journal.checkpoints.latest() == 3


@pytest.mark.parametrize("error", [KeyError("x"), OSError(28, "No space left on device"), MemoryError()])
def test_a_defect_is_raised_as_it_is_when_the_state_is_saved(journal, state, error, capsys):
    assert ended(error, Reached(state, 3), journal, Preemption(1.0)) is error
    assert journal.checkpoints.latest() == 3
    assert capsys.readouterr().err == f"step 3: {type(error).__name__}; saved after step 3\n"


def test_half_a_step_is_not_saved(journal, state, capsys):
    """Nor a state whose buffers an update has taken, nor one of NaN."""
    ended(KeyError("x"), Reached(state, 3, is_whole=False), journal, Preemption(1.0))
    assert "NOT saved, older checkpoints count" in capsys.readouterr().err
    end = ended(FloatingPointError("NaN"), Reached(state, 3), journal, Preemption(1.0))
    assert isinstance(end, RunEnded) and "not saved" in str(end)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    end = ended(UserError("x"), Reached(state, 3), journal, Preemption(1.0))
    assert "NOT saved" in str(end) and journal.checkpoints.latest() is None


def test_the_traceback_of_an_episode_that_failed_is_shown(journal, state, capsys):
    try:
        raise KeyError("missing")
    except KeyError as error:
        failed = EpisodesFailed([(0, "episode 'a'", error)], [None])
    ended(failed, Reached(state, 3), journal, Preemption(1.0))
    assert "test_ending.py" in capsys.readouterr().err


@pytest.fixture
def clock(tmp_path):
    watchdog = Watchdog(GuardConfig(action="off"), tmp_path, lambda: "idle")
    return Clock(watchdog, Progress(9, "train", is_muted=True), 2)


@pytest.fixture
def watchdog(tmp_path):
    return Watchdog(GuardConfig(action="off"), tmp_path, lambda: "idle")


def alarm(action):
    return Alarm("kl", "loss/ref_kl", 2.0, 1.0, 3, action, "the policy is far from the reference")


def test_an_alarm_that_stops_a_run_does_so_when_the_steps_checkpoint_is_begun(journal, state, clock, watchdog):
    reached = Reached(state, 25)  # `checkpoint_every` is 25
    end_step(reached, journal, clock, watchdog, [alarm("warn")])
    assert journal.checkpoints.latest() == 25 and "seconds/checkpoint" in clock.seconds
    reached.done = 26
    with pytest.raises(RunEnded, match="step 25: alarm kl: ") as end:
        end_step(reached, journal, clock, watchdog, [alarm("warn"), alarm("stop")])
    assert end.value.code == exits.STOPPED and journal.checkpoints.latest() == 25


def test_results_that_cannot_be_written_end_the_run_and_its_state_is_saved(journal, state, watchdog, tmp_path):
    reached, words = Reached(state, 9), f"the results of {tmp_path} could not be written (No space left on device)"
    with (
        pytest.raises(RunEnded, match="could not be written") as end,
        saved_at_the_end(reached, journal, Preemption(1.0)),
        results_of(reached, journal, watchdog, tmp_path),
    ):
        raise OSError(28, "No space left on device")
    assert str(end.value).startswith(f"{words}; saved after step 9") and end.value.code == exits.STOPPED
    assert journal.checkpoints.latest() == 9


def test_a_run_is_done_when_its_last_checkpoint_is(journal, state, watchdog, tmp_path):
    written = []
    with results_of(Reached(state, 9), journal, watchdog, tmp_path):
        written.append(journal.checkpoints.latest())
    assert written == [None] and journal.checkpoints.steps() == [9]
    assert '"done"' in (tmp_path / "heartbeat.json").read_text("utf-8")


def test_a_defect_keeps_its_traceback(journal, state):
    with pytest.raises(KeyError) as error, saved_at_the_end(Reached(state, 3), journal, Preemption(1.0)):
        raise KeyError("x")
    assert error.traceback[-1].path.name == "test_ending.py" and journal.checkpoints.latest() == 3
