"""Kills one run of training again and again, and compares what it ends with to a run that nobody touched.

    python tests/e2e/kill_harness.py --kills 30 --seed 0 --out runs/kills        about 10 minutes on 2 CPU cores
    python tests/e2e/kill_harness.py --kills 10 --signal TERM --seed 1 --out runs/terms

Each kill waits until the run says (heartbeat.json) that it is in a phase drawn at random, and strikes at a random
time after that. After a third of the SIGKILLs half a line is appended to metrics.jsonl, as a power cut may leave it.
Prints a JSON object: kills by phase, and whether every compared file is identical. Exit code 1 when one is not.

The package is imported once and every attempt is a fork, which saves its import; nothing of jax has run by then.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=1"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax-tests"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from finemem_jax import main, train  # noqa: E402, F401  (train: imported before the fork, not after it)

PHASES = ("setup", "rollout", "reward", "update", "log", "checkpoint", "evaluate", "export")
COMPARED = ("metrics.jsonl", "evaluations.jsonl", "alarms.jsonl", "results.json", "config.json", "hf/model.safetensors")
LAST_NOTE = "checkpoints/{steps}/extra/metadata"  # checksums of all parameters and of the optimizer state
PREEMPTED = 75
PR_SET_PDEATHSIG = 1  # of Linux's prctl
LONGEST = 1800.0  # seconds until an attempt counts as hung

TINY = (
    "--config.train.episodes=1",
    "--config.train.group_size=2",
    "--config.train.mini_batches=1",
    "--config.train.checkpoint_every=2",
    "--config.train.eval_every=3",
    "--config.train.keep_checkpoints=2",
    "--config.eval.episodes=1",
    "--config.loss.kl_coef=0.01",
    "--config.engine.slots=4",
    "--config.data.diary.chunks=2",
    "--config.data.diary.train_episodes=16",
    "--config.prompt.max_completion_tokens=32",
    "--config.guards.reward_collapse.limit=1",  # alarms sound, so that alarms.jsonl has something to compare
    "--config.guards.patience=2",
)


def start(workdir: Path, steps: int, log: Path) -> int:
    """Forks a training process; its process id. It does not outlive the harness."""
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        config = f"--config={ROOT / 'configs/quickstart.py'}"
        code = main.main(["train", config, f"--workdir={workdir}", f"--config.train.steps={steps}", *TINY])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code (negative: the signal) of a process; None when it still runs after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.001)


def wait_for_phase(pid: int, workdir: Path, phase: str, times: int) -> tuple[str, int | None]:
    """Waits until the process enters `phase` for the given time, or reaches its last phase. Where it is, and its exit
    code if it ended by itself."""
    seen, last = 0, None
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        code = wait(pid, 0)
        if code is not None:
            return "", code
        try:
            beat = json.loads((workdir / "heartbeat.json").read_text())
        except (OSError, ValueError):
            beat = {}
        if beat.get("process") == pid and beat != last:
            last = beat
            seen += beat["phase"] == phase
            if seen >= times or beat["phase"] == "export":
                return beat["phase"], None
        time.sleep(0.001)
    raise TimeoutError(f"no {phase} within {LONGEST:g} s")


def run_killed(workdir: Path, steps: int, kills: int, number: signal.Signals, seed: int, log: Path) -> dict:
    """One run under `kills` signals, then left alone until it ends."""
    rng = random.Random(seed)
    by_phase: collections.Counter[str] = collections.Counter()
    torn, slowest = 0, 0.0
    plan = [PHASES[i % len(PHASES)] for i in range(kills)]
    rng.shuffle(plan)
    plan.sort(key=lambda phase: phase == "export")  # reached only at the end: everything before it comes first
    for phase in plan:
        pid = start(workdir, steps, log)
        if phase == "setup":
            time.sleep(rng.uniform(0.0, 2.0))
            code = wait(pid, 0)
        else:
            phase, code = wait_for_phase(pid, workdir, phase, rng.randint(1, 3))
            time.sleep(rng.choice((0.0, 0.0, rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.5))))
        if code is not None:
            raise RuntimeError(f"the run ended with {code} before it was killed: see {log}")
        os.kill(pid, number)
        struck = time.monotonic()
        code = wait(pid, LONGEST)
        slowest = max(slowest, time.monotonic() - struck)
        by_phase[phase] += 1
        metrics = workdir / "metrics.jsonl"
        if number == signal.SIGTERM:
            # Before the handler stands the signal just kills; after the export nothing is left to save.
            expected = {"setup": (PREEMPTED, -signal.SIGTERM), "export": (PREEMPTED, 0)}
            if code not in expected.get(phase, (PREEMPTED,)):
                raise RuntimeError(f"SIGTERM in {phase}: exit code {code}: see {log}")
            if code == PREEMPTED and phase != "setup":
                check_nothing_lost(workdir)
        elif metrics.exists() and rng.random() < 1 / 3:
            line = '{"step": 99, "accuracy": 0.5, "text": "\u00e9\u2028"}\n'.encode()
            with metrics.open("ab") as file:
                file.write(line[: rng.randrange(1, len(line) - 1)])
            torn += 1
    code = wait(start(workdir, steps, log), LONGEST)
    if code != 0:
        raise RuntimeError(f"the last attempt ended with {code}: see {log}")
    return {"kills": sum(by_phase.values()), "by_phase": dict(by_phase), "torn_lines": torn, "slowest_s": slowest}


def check_nothing_lost(workdir: Path) -> None:
    """After a SIGTERM the newest checkpoint is that of the last step that was logged."""
    logged = len((workdir / "metrics.jsonl").read_text().splitlines())
    newest = max((int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), default=0)
    if newest != logged:
        raise RuntimeError(f"{logged} steps are logged and the newest checkpoint is of step {newest}")


def differences(a: Path, b: Path, steps: int) -> list[str]:
    """The files that differ, of those that a config and a seed determine."""
    names = (*COMPARED, LAST_NOTE.format(steps=steps))
    return [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()]


def harness(out: Path, *, steps: int, kills: int, number: signal.Signals, seed: int) -> dict:
    """Both runs, in `out`, and what differs between them."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.monotonic()
    code = wait(start(out / "untouched", steps, out / "untouched.log"), 2 * LONGEST)
    if code != 0:
        raise RuntimeError(f"the untouched run ended with {code}: see {out / 'untouched.log'}")
    result = run_killed(out / "killed", steps, kills, number, seed, out / "killed.log")
    lines = [json.loads(line)["step"] for line in (out / "killed/metrics.jsonl").read_text().splitlines()]
    differ = differences(out / "untouched", out / "killed", steps)
    if lines != list(range(steps)):
        differ.append(f"steps in metrics.jsonl: {lines}")
    return {
        "signal": number.name,
        "seed": seed,
        "steps": steps,
        **result,
        "differ": differ,
        "seconds": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for both runs; emptied first")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=80, help="few steps put most kills into the export")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    given = parser.parse_args()
    found = harness(
        given.out,
        steps=given.steps,
        kills=given.kills,
        number=signal.Signals[f"SIG{given.signal}"],
        seed=given.seed,
    )
    print(json.dumps(found))
    sys.exit(bool(found["differ"]))
