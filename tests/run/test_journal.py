"""The files of a run on a full disk: it goes on and writes them later, or ends with a clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from finemem_jax import exits
from finemem_jax.config import Config, EvalConfig, OptimizerConfig, TrainConfig
from finemem_jax.evaluation.records import Evaluation
from finemem_jax.files import read_lines
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.run.journal import Journal, scores

ROOT = Path(__file__).parents[2]

# A limit on the size of files stands for the full disk: what is written beyond it fails. Prints what the folder holds.
SCRIPT = """
import dataclasses, resource, sys
from pathlib import Path
import jax
from finemem_jax.config import Config, GuardsConfig, OptimizerConfig, TrainConfig
from finemem_jax.exits import RunEnded
from finemem_jax.run.journal import Journal
from finemem_jax.evaluation.records import Evaluation
from finemem_jax.files import read_lines
from finemem_jax.rl.train_state import create_train_state, make_optimizer

cfg = Config(train=TrainConfig(steps=9, checkpoint_every=3), guards=GuardsConfig(disk_full=sys.argv[2]))
optimizer = make_optimizer(OptimizerConfig(), updates=2)
state = create_train_state({"kernel": jax.random.normal(jax.random.key(0), (200, 200))}, optimizer)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

journal = Journal(cfg, Path(sys.argv[1]))
journal.resume(state)
def step(number):
    journal.write(journal.metrics, number, {"text": "x" * 300})
    if journal.needs_checkpoint(number + 1):
        print(f"checkpoint {number + 1}", flush=True)
        journal.save(number + 1, state)
        journal.attempt("a checkpoint", journal.checkpoints.wait)

try:
    for number in range(3):
        step(number)
    limit(1000)  # the third line is there, the fourth does not fit
    for number in range(3, 7):
        step(number)
        print("lines", len(read_lines(journal.metrics.path)), "checkpoints", journal.checkpoints.steps(), flush=True)
    limit(20_000)  # now there is room for lines, not for a checkpoint
    step(7)
    limit(hard)
    step(8)
except RunEnded as end:
    print("ended:", end.code, end)
print("lines", len(read_lines(journal.metrics.path)), "checkpoints", journal.checkpoints.steps())
"""


def on_a_full_disk(folder: Path, action: str) -> tuple[list[str], str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(folder), action]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines(), done.stderr


def test_a_run_goes_on_and_writes_later_what_did_not_fit(tmp_path):
    out, error = on_a_full_disk(tmp_path, "warn")
    assert out == [
        "checkpoint 3",
        *["lines 3 checkpoints [3]"] * 2,
        "checkpoint 6",  # due, and not written: a line before it is not on the disk
        "lines 3 checkpoints [3]",
        "checkpoint 7",  # tried again at the next step
        "lines 3 checkpoints [3]",
        "checkpoint 8",
        "checkpoint 9",
        "lines 9 checkpoints [3, 9]",
    ]
    assert "WARNING: a line of metrics.jsonl could not be written (File too large); it is kept and written" in error
    assert "WARNING: the checkpoint of step 8 could not be written (File too large)" in error
    assert "the newest is that of step 3, intact; the run goes on (config.guards.disk_full=warn)" in error


def test_a_run_that_shall_stop_ends_with_its_code_and_what_is_complete(tmp_path):
    out, _ = on_a_full_disk(tmp_path, "stop")
    assert out[0] == "checkpoint 3" and out[-1] == "lines 3 checkpoints [3]"
    assert out[1].startswith(f"ended: {exits.STOPPED} a line of metrics.jsonl could not be written (File too large)")
    assert out[1].endswith("(config.guards.disk_full=stop)")


@pytest.fixture(scope="module")
def state():
    optimizer = make_optimizer(OptimizerConfig(), updates=2)
    return create_train_state({"kernel": jax.random.normal(jax.random.key(0), (4, 4))}, optimizer)


def a_run(folder: Path, state, accuracy=lambda step: 0.1 * step) -> Config:
    """Four steps, an evaluation at steps 0, 2 and 4, checkpoints after steps 2 and 4."""
    cfg = Config(train=TrainConfig(steps=8, checkpoint_every=2, eval_every=2), eval=EvalConfig(temperatures=(1.0, 0.0)))
    journal = Journal(cfg, folder)
    journal.resume(state)
    for step in range(5):
        if journal.needs_evaluation(step):
            found = {policy: Evaluation({"accuracy": accuracy(step)}, []) for policy in ("T=1", "greedy")}
            journal.write_evaluation(step, "after", found)
        if step < 4:
            for log in (journal.metrics, journal.timings):
                journal.write(log, step, {"value": 0.5})
            for log in (journal.rollouts, journal.alarms):
                journal.write(log, step, {"name": "x"})
            if journal.needs_checkpoint(step + 1):
                journal.save(step + 1, state)
    assert journal.finish(4, state)
    return cfg


def test_no_log_that_is_damaged_stops_a_resume(tmp_path, state, capsys):
    """A line of each log is lost; what the run goes on from is not in them."""
    cfg = a_run(tmp_path, state)
    for name in ("metrics", "timings", "rollouts", "alarms", "evaluations"):
        path = tmp_path / f"{name}.jsonl"
        lines = path.read_bytes().split(b"\n")
        lines[1] = b"null"
        path.write_bytes(b"\n".join(lines))
    journal = Journal(cfg, tmp_path)
    _, first = journal.resume(state)
    assert first == 4 and not journal.needs_evaluation(4)
    said = capsys.readouterr().err
    assert said.count("1 of 4 lines cannot be read") == 4 and said.count("1 of 6 lines cannot be read") == 1
    assert f"{tmp_path / 'metrics.jsonl'} lacks 1 of the 4 steps" in said
    assert len(list(tmp_path.glob("*.damaged-1"))) == 5


def test_an_evaluation_without_answers_stands_and_makes_no_checkpoint_the_best(tmp_path, state, capsys):
    accuracies = {0: 0.1, 2: 0.3, 4: None}
    cfg = a_run(tmp_path, state, lambda step: accuracies[step])
    assert [line["accuracy"] for line in read_lines(tmp_path / "evaluations.jsonl")] == [0.1, 0.1, 0.3, 0.3, None, None]
    assert scores(tmp_path) == {0: 0.1, 2: 0.3}
    journal = Journal(cfg, tmp_path)
    _, first = journal.resume(state)
    assert first == 4 and not journal.needs_evaluation(4) and journal.checkpoints.best() == 2
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", [b"null", b'{"step": 4, "policy": "greedy"}', b'{"step": 4, "policy": 1, "accuracy": 1}']
)
def test_an_evaluation_whose_line_is_damaged_is_made_again(tmp_path, state, damage):
    cfg = a_run(tmp_path, state)
    path = tmp_path / "evaluations.jsonl"
    *lines, _, end = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines, damage, end]))
    journal = Journal(cfg, tmp_path)
    journal.resume(state)
    assert journal.needs_evaluation(4)
    assert [line["step"] for line in read_lines(path)] == [0, 0, 2, 2]


def test_what_was_spent_is_saved_and_ends_the_run_by_whichever_budget_is_reached_first(tmp_path):
    train = TrainConfig(steps=10, budget_tokens=100, budget_answers=40)
    cfg = Config(train=train)
    state = create_train_state({"kernel": jax.numpy.zeros(2)}, make_optimizer(OptimizerConfig(), updates=2))
    journal = Journal(cfg, tmp_path)
    journal.resume(state)
    assert (journal.share_done(1), journal.is_spent()) == (0.1, False)
    journal.spent = {"tokens": 50, "answers": 10}
    assert (journal.share_done(1), journal.share_done(8), journal.is_spent()) == (0.5, 0.8, False)
    journal.spent = {"tokens": 50, "answers": 40}
    assert journal.finish(3, state) and journal.is_spent()
    again = Journal(cfg, tmp_path)
    _, first = again.resume(state)
    assert (first, again.spent, again.is_spent()) == (3, {"tokens": 50, "answers": 40}, True)
    assert not Journal(Config(train=TrainConfig(steps=10)), tmp_path / "other").is_spent()


def test_a_run_until_all_budgets_are_spent_is_evaluated_where_each_one_was(tmp_path):
    cfg = Config(train=TrainConfig(steps=10, budget_tokens=100, budget_answers=40, budget_until="all", eval_every=0))
    state = create_train_state({"kernel": jax.numpy.zeros(2)}, make_optimizer(OptimizerConfig(), updates=2))
    journal = Journal(cfg, tmp_path)
    journal.resume(state)
    journal.spend(1, tokens=60, answers=10)
    assert (journal.share_done(1), journal.marks) == (0.25, {})
    journal.spend(2, tokens=60, answers=10)
    assert (journal.is_spent(), journal.marks, journal.needs_evaluation(2)) == (False, {"tokens": 2}, True)
    journal.spend(3, tokens=60, answers=10)
    assert not journal.needs_evaluation(3) and journal.finish(3, state)
    again = Journal(cfg, tmp_path)
    again.resume(state)
    again.spend(4, tokens=60, answers=10)
    assert (again.is_spent(), again.marks) == (True, {"tokens": 2, "answers": 4})
