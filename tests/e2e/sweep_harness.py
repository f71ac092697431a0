"""Kills a sweep again and again, starts it anew at once, and compares what its runs end with to a sweep left alone.

    python tests/e2e/sweep_harness.py --kills 8 --seed 0 --out runs/sweep_kills

Each SIGKILL strikes the sweep itself, at a random moment after its runs have begun or have logged a further step. The
runs are not touched: they save and end by themselves, while the next sweep is started without waiting for that. No row
may fail, no run may outlive the last sweep, and every run must end with the bytes of the one that nobody disturbed.

Prints a JSON object; exit code 1 when a file differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.e2e.kill_harness import COMMANDS, LONGEST, TINY, differences  # noqa: E402  (which sets jax's variables)

SEEDS = (0, 1)
ROW = "quickstart"


def start(workdir: Path, steps: int, log: Path) -> subprocess.Popen:
    settings = COMMANDS["train"]
    arguments = [f"--configs={ROOT / settings.config}", f"--seeds={','.join(map(str, SEEDS))}", "--jobs=2"]
    arguments += [f"--workdir={workdir}", *TINY, *settings.options(steps)]
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "finemem_jax.main", "sweep", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=file,
        )


def logged(workdir: Path) -> int:
    """Steps that the runs have logged, in all."""
    return sum(path.read_bytes().count(b"\n") for path in workdir.glob(f"{ROW}/*/metrics.jsonl"))


def alive(workdir: Path) -> int:
    """How many processes train in a folder of the sweep."""
    wanted, found = f"--workdir={workdir}/".encode(), 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += any(word.startswith(wanted) for word in path.read_bytes().split(b"\0"))
        except OSError:  # it ended while we looked
            continue
    return found


def wait_until(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the sweep ended with {process.returncode} before it was struck")
        if time.monotonic() > end:
            raise TimeoutError(f"nothing within {LONGEST:g} s")
        time.sleep(0.01)


def strike(workdir: Path, steps: int, kills: int, rng: random.Random, log: Path) -> dict:
    """A sweep that is killed `kills` times, then left alone until it ends."""
    aims = {"start": 0, "step": 0}
    for i in range(kills):
        process, before = start(workdir, steps, log), logged(workdir)
        aim = ("start", "step")[i % 2]
        if aim == "start":
            wait_until(lambda: alive(workdir) > 0, process)
        else:
            wait_until(lambda before=before: logged(workdir) > before, process)
        aims[aim] += 1
        time.sleep(rng.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    code = start(workdir, steps, log).wait()
    said = log.read_text("utf-8", errors="replace")
    failed = re.findall(r"seed \d+: exit code \d+", said)
    if code or failed:
        raise RuntimeError(f"the last sweep ended with {code}; {failed}: see {log}")
    wait_until(lambda: alive(workdir) == 0)
    notes = [path.read_text("utf-8", errors="replace") for path in workdir.glob(f"{ROW}/*/log.txt")]
    return {
        "kills": kills,
        "aims": aims,
        "waited": said.count("waiting for process"),
        "ended_with_the_sweep": sum(note.count("the process that started this run is gone") for note in notes),
        "resumed": sum(note.count("resumed at step") for note in notes),
    }


def harness(out: Path, *, steps: int, kills: int, seed: int) -> dict:
    """Both sweeps, in `out`, and what differs between their runs."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.monotonic()
    if code := start(out / "untouched", steps, out / "untouched.log").wait():
        raise RuntimeError(f"the untouched sweep ended with {code}: see {out / 'untouched.log'}")
    result = strike(out / "killed", steps, kills, random.Random(seed), out / "killed.log")
    differ = [
        f"{folder}/{name}"
        for folder in (f"{ROW}/seed-{number}" for number in SEEDS)
        for name in differences("train", out / "untouched" / folder, out / "killed" / folder, steps)
    ]
    return {"seed": seed, "steps": steps, **result, "differ": differ, "seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for both sweeps; emptied first")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = harness(given.out.resolve(), steps=given.steps, kills=given.kills, seed=given.seed)
    print(json.dumps(found))
    sys.exit(bool(found["differ"]))
