"""The files of a run on a full disk: it goes on and writes them later, or ends with a clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from finemem_jax import exits

ROOT = Path(__file__).parents[2]

# A limit on the size of files stands for the full disk: what is written beyond it fails. Prints what the folder holds.
SCRIPT = """
import dataclasses, resource, sys
from pathlib import Path
import jax
from finemem_jax.config import Config, GuardsConfig, OptimizerConfig, TrainConfig
from finemem_jax.exits import RunEnded
from finemem_jax.run.journal import Journal
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
