"""Whatever ends a run saves it, when there is a whole state to save, and says so."""

from __future__ import annotations

import jax
import pytest

from finemem_jax import exits
from finemem_jax.config import Config, OptimizerConfig, TrainConfig, UserError
from finemem_jax.decoding.engine import EpisodesFailed
from finemem_jax.exits import RunEnded
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.run.ending import ended
from finemem_jax.run.journal import Journal
from finemem_jax.run.preemption import Preempted, Preemption
from finemem_jax.types import AnswererDown


@pytest.fixture
def state():
    optimizer = make_optimizer(OptimizerConfig(), updates=2)
    return create_train_state({"kernel": jax.random.normal(jax.random.key(0), (4, 4))}, optimizer)


@pytest.fixture
def journal(tmp_path, state):
    opened = Journal(Config(train=TrainConfig(steps=9)), tmp_path)
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
    end = ended(error, journal, 3, state, Preemption(1.0), is_whole=True)
    assert isinstance(end, RunEnded) and str(end).startswith(line) and "\n" not in str(end) and end.code == code
    assert journal.checkpoints.latest() == 3


@pytest.mark.parametrize("error", [KeyError("x"), OSError(28, "No space left on device"), MemoryError()])
def test_a_defect_is_raised_as_it_is_when_the_state_is_saved(journal, state, error, capsys):
    assert ended(error, journal, 3, state, Preemption(1.0), is_whole=True) is error
    assert journal.checkpoints.latest() == 3
    assert capsys.readouterr().err == f"step 3: {type(error).__name__}; saved after step 3\n"


def test_half_a_step_is_not_saved(journal, state, capsys):
    """Nor a state whose buffers an update has taken, nor one of NaN."""
    ended(KeyError("x"), journal, 3, state, Preemption(1.0), is_whole=False)
    assert "NOT saved, older checkpoints count" in capsys.readouterr().err
    end = ended(FloatingPointError("NaN"), journal, 3, state, Preemption(1.0), is_whole=True)
    assert isinstance(end, RunEnded) and "not saved" in str(end)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    end = ended(UserError("x"), journal, 3, state, Preemption(1.0), is_whole=True)
    assert "NOT saved" in str(end) and journal.checkpoints.latest() is None


def test_the_traceback_of_an_episode_that_failed_is_shown(journal, state, capsys):
    try:
        raise KeyError("missing")
    except KeyError as error:
        failed = EpisodesFailed([(0, "episode 'a'", error)], [None])
    ended(failed, journal, 3, state, Preemption(1.0), is_whole=True)
    assert "test_ending.py" in capsys.readouterr().err
