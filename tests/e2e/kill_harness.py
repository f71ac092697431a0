"""Interrupts one run of training again and again, and compares what it ends with to a run that nobody touched.

    python tests/e2e/kill_harness.py --kills 32 --seed 0 --out runs/kills
    python tests/e2e/kill_harness.py --kills 32 --command sft --seed 0 --out runs/sft_kills
    python tests/e2e/kill_harness.py --kills 10 --signals TERM,INT --seed 1 --out runs/terms

Each strike waits until the run says (heartbeat.json) that it is in a phase drawn at random, and comes at a random time
after that: every second one within the phase, as long as that took in the untouched run, the others within the time
of a step. The phases are aimed at in turn, and an attempt may only take the steps that the strikes still to come can
spare, so that the run does not reach its end early. Signals, in turn: KILL, TERM, INT (Ctrl-C), INT2 (Ctrl-C twice).
After a third of the SIGKILLs half a line is appended to the metrics, as a power cut may leave it; after --damage of
them a file of the newest checkpoint is removed, cut off or changed by a bit.

Prints a JSON object: where the strikes hit (the last phase that the process had written when it was dead), and
whether every compared file is identical. Exit code 1 when one is not.

The package is imported once and every attempt is a fork, which saves its import; nothing of jax has run by then.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.compiling import quick_compilation  # noqa: E402

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(quick_compilation())
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax-tests"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from finemem_jax import exits, main, sft, train  # noqa: E402, F401  (imported before the fork, not after it)
from finemem_jax.run.watchdog import HEARTBEAT  # noqa: E402
from finemem_jax.run.workdir import code_version  # noqa: E402

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "INT2": signal.SIGINT}
LAST_NOTE = "checkpoints/{steps}/extra/metadata"  # checksums of all parameters and of the optimizer state
PR_SET_PDEATHSIG = 1  # of Linux's prctl
LONGEST = 1800.0  # seconds until an attempt counts as hung

TINY = (
    "--config.train.keep_checkpoints=2",
    "--config.eval.episodes=1",
    "--config.engine.slots=4",
    "--config.data.diary.chunks=2",
    "--config.data.diary.train_episodes=16",
    "--config.prompt.max_completion_tokens=32",
    "--config.guards.reward_collapse.limit=1",  # alarms sound, so that alarms.jsonl has something to compare
    "--config.guards.patience=2",
    "--config.guards.grace=900",  # on a busy machine one compilation may outlast the default
)


@dataclasses.dataclass(frozen=True)
class Command:
    """What is run, and what it is struck at."""

    config: str
    options: Callable[[int], tuple[str, ...]]  # by number of steps
    phases: dict[str, int]  # how many steps lie between two of each
    metrics: str
    compared: tuple[str, ...]
    verb: str = ""  # of `finemem`, where that is not the command's name here


COMMANDS = {
    "train": Command(
        "configs/quickstart.py",
        lambda steps: (
            f"--config.train.steps={steps}",
            "--config.train.episodes=1",
            "--config.train.group_size=2",
            "--config.train.mini_batches=1",
            "--config.train.checkpoint_every=2",
            "--config.train.eval_every=3",
            "--config.loss.kl_coef=0.01",
        ),
        {"setup": 1, "rollout": 1, "reward": 1, "update": 1, "log": 1, "checkpoint": 2, "evaluate": 3, "export": 1},
        "metrics.jsonl",
        (
            "metrics.jsonl",
            "evaluations.jsonl",
            "heldout_scores.jsonl",
            "alarms.jsonl",
            "results.json",
            "config.json",
            "hf/model.safetensors",
        ),
    ),
    "parametric": Command(  # memory in fast weights, which are written while the episodes go on
        "configs/tmem_small.py",
        lambda steps: (
            f"--config.train.steps={steps}",
            "--config.train.episodes=1",
            "--config.train.group_size=2",
            "--config.train.mini_batches=1",
            "--config.train.checkpoint_every=2",
            "--config.train.eval_every=3",
            "--config.method.fast.supervision=text",
            "--config.memory.name=flat",  # beside it, so that something is earned
            "--config.loss.kl_coef=0.01",
        ),
        {"setup": 1, "rollout": 1, "reward": 1, "update": 1, "log": 1, "checkpoint": 2, "evaluate": 3, "export": 1},
        "metrics.jsonl",
        (
            "metrics.jsonl",
            "rollouts.jsonl",
            "evaluations.jsonl",
            "heldout_scores.jsonl",
            "alarms.jsonl",
            "results.json",
            "config.json",
            "hf/model.safetensors",
        ),
        verb="train",
    ),
    "sft": Command(
        "configs/quickstart.py",
        lambda steps: (
            "--config.sft.stages=('copy_lines', 'expert')",
            f"--config.sft.steps=({steps // 2}, {steps - steps // 2})",
            "--config.sft.lr=(1e-3, 1e-3)",
            "--config.sft.permuted=0.3",  # random numbers of every kind
            "--config.sft.copy_mix=0.3",
            "--config.sft.update_mix=0.3",
            "--config.sft.batch=4",
            "--config.sft.pool=4",
            "--config.sft.eval_examples=4",
            "--config.sft.checkpoint_every=2",
            "--config.sft.eval_every=3",
        ),
        {"setup": 1, "pack": 1, "update": 1, "log": 1, "checkpoint": 2, "evaluate": 3, "export": 1},
        "sft_metrics.jsonl",
        (
            "sft_metrics.jsonl",
            "evaluations.jsonl",
            "alarms.jsonl",
            "results.json",
            "config.json",
            "hf/model.safetensors",
        ),
    ),
}


# --------------------------------------------------------------------------------------------------------------
# One attempt
# --------------------------------------------------------------------------------------------------------------


def start(command: str, workdir: Path, steps: int, log: Path) -> int:
    """Starts a process of the run; its process id."""
    settings = COMMANDS[command]
    config = f"--config={ROOT / settings.config}"
    return forked([settings.verb or command, config, f"--workdir={workdir}", *TINY, *settings.options(steps)], log)


def forked(arguments: list[str], log: Path) -> int:
    """Forks a process that runs `finemem ARGUMENTS`; its process id. It does not outlive the harness."""
    pid = os.fork()
    if pid:
        return pid
    code = exits.CRASHED
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = main.main(arguments)
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


def heartbeat(workdir: Path, pid: int) -> dict:
    """What the process last said it was doing; its setup, before it has said anything."""
    try:
        beat = json.loads((workdir / HEARTBEAT).read_text())
    except (OSError, ValueError):
        beat = {}
    return beat if beat.get("process") == pid else {"phase": "setup", "step": 0}


def wait_for_phase(pid: int, workdir: Path, phase: str, times: int) -> int | None:
    """Waits until the process enters `phase` for the given time, or reaches its last phase. Its exit code, if it ended
    by itself."""
    seen, last = 0, None
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        code = wait(pid, 0)
        if code is not None:
            return code
        beat = heartbeat(workdir, pid)
        if beat["phase"] != "setup" and beat != last:
            last = beat
            seen += beat["phase"] == phase
            if seen >= times or beat["phase"] == "export":
                return None
        time.sleep(0.001)
    raise TimeoutError(f"no {phase} within {LONGEST:g} s")


def run_untouched(command: str, workdir: Path, steps: int, log: Path) -> dict[str, float]:
    """A run that is left alone; how long its phases took, in seconds."""
    started = time.monotonic()
    pid = start(command, workdir, steps, log)
    wait_for_phase(pid, workdir, "evaluate", 1)
    begun = time.monotonic()
    wait_for_phase(pid, workdir, "export", 1)
    exporting = time.monotonic()
    code = wait(pid, LONGEST)
    if code != 0:
        raise RuntimeError(f"the untouched run ended with {code}: see {log}")
    seconds = {"setup": begun - started, "export": time.monotonic() - exporting}
    lines = [json.loads(line) for line in (workdir / "timings.jsonl").read_text().splitlines()]
    phases = COMMANDS[command].phases
    for phase in phases.keys() - seconds.keys():
        found = sorted(line[f"seconds/{phase}"] for line in lines if f"seconds/{phase}" in line)
        seconds[phase] = found[len(found) // 2] if found else 0.0  # the median: the first one compiles
    return seconds | {"step": sum(seconds[phase] for phase in phases if phase not in ("setup", "evaluate", "export"))}


# --------------------------------------------------------------------------------------------------------------
# Strikes
# --------------------------------------------------------------------------------------------------------------


def run_struck(
    command: str, out: Path, steps: int, aims: list[tuple[str, str]], damage: float, seed: int, durations: dict
) -> dict:
    """One run under the signals and phases of `aims`, then left alone until it ends."""
    workdir, log, rng = out / "killed", out / "killed.log", random.Random(seed)
    settings = COMMANDS[command]
    metrics = workdir / settings.metrics
    hits: collections.Counter[str] = collections.Counter()
    torn, damaged, slowest = 0, 0, 0.0
    for i, (name, phase) in enumerate(aims):
        pid = start(command, workdir, steps, log)
        if phase != "setup":
            to_come = sum(aimed != "export" for _, aimed in aims[i:])
            spare = (steps - newest_checkpoint(workdir)) / max(to_come, 1)
            times = rng.randint(1, min(3, max(1, int(spare / settings.phases[phase]))))
            code = wait_for_phase(pid, workdir, phase, times)
            if code is not None:
                raise RuntimeError(f"the run ended with {code} before it was struck: see {log}")
        is_within = phase in ("setup", "export") or rng.random() < 0.5
        time.sleep(rng.uniform(0.0, 0.8 * durations[phase] if is_within else durations["step"]))
        struck = time.monotonic()
        strike(pid, name, log)
        code = wait(pid, LONGEST)
        slowest = max(slowest, time.monotonic() - struck)
        hit = heartbeat(workdir, pid)["phase"]
        hits[f"{name} {hit}"] += 1
        check_end(name, code, hit, metrics, log)
        if name == "KILL" and rng.random() < 1 / 3 and metrics.exists():
            tear_line(metrics, rng)
            torn += 1
        if name == "KILL" and rng.random() < damage:
            damaged += damage_checkpoint(workdir / "checkpoints", rng)
    code = wait(start(command, workdir, steps, log), LONGEST)
    if code != 0:
        raise RuntimeError(f"the last attempt ended with {code}: see {log}")
    by_phase: collections.Counter[str] = collections.Counter()
    for hit, count in hits.items():
        by_phase[hit.partition(" ")[2]] += count
    return {
        "kills": len(aims),
        "by_phase": dict(by_phase),
        "hits": dict(hits),
        "torn_lines": torn,
        "damaged_checkpoints": damaged,
        "fell_back": log.read_text("utf-8", errors="replace").count("work since then is done again"),
        "slowest_s": round(slowest, 1),
    }


def strike(pid: int, name: str, log: Path) -> None:
    """Sends the signal; of Ctrl-C twice the second as soon as the run has said that it saves."""
    before = log.stat().st_size if log.exists() else 0
    os.kill(pid, SIGNALS[name])
    if name == "INT2":
        while b"SIGINT: saving" not in log.read_bytes()[before:]:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.001)
        os.kill(pid, signal.SIGINT)


def check_end(name: str, code: int | None, hit: str, metrics: Path, log: Path) -> None:
    """Raises unless the process ended as the signal says; after a signal that lets it save, nothing may be lost."""
    expected = {
        "KILL": {-signal.SIGKILL},
        "TERM": {exits.PREEMPTED} | ({-signal.SIGTERM} if hit == "setup" else set()),  # before its handler stands
    }.get(name, {exits.INTERRUPTED})
    if hit in ("export", "done"):  # nothing was left to save
        expected |= {exits.DONE}
    if code not in expected:
        raise RuntimeError(f"SIG{name} in {hit}: exit code {code}: see {log}")
    if name in ("TERM", "INT") and code != exits.DONE and hit != "setup":
        logged, newest = metrics.read_bytes().count(b"\n"), newest_checkpoint(metrics.parent)
        if newest != logged:
            raise RuntimeError(f"{logged} steps are logged and the newest checkpoint is {newest}")


def newest_checkpoint(workdir: Path) -> int:
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def tear_line(path: Path, rng: random.Random) -> None:
    """Appends the beginning of a line."""
    line = '{"step": 99, "accuracy": 0.5, "text": "\u00e9\u2028"}\n'.encode()
    with path.open("ab") as file:
        file.write(line[: rng.randrange(1, len(line) - 1)])


def damage_checkpoint(folder: Path, rng: random.Random) -> bool:
    """Removes, cuts off or changes a file of the newest checkpoint, if there is one before it."""
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if len(steps) < 2:
        return False
    path = rng.choice(sorted(path for path in (folder / str(steps[-1])).rglob("*") if path.is_file()))
    content = path.read_bytes()
    how = rng.choice(("missing", "cut off", "a bit"))
    if how == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        rest = bytes([content[middle] ^ 0x10]) + content[middle + 1 :] if how == "a bit" and content else b""
        path.write_bytes(content[:middle] + rest)
    return True


# --------------------------------------------------------------------------------------------------------------
# Both runs
# --------------------------------------------------------------------------------------------------------------


def differences(command: str, a: Path, b: Path, steps: int) -> list[str]:
    """The files that differ, of those that a config and a seed determine."""
    settings = COMMANDS[command]
    names = (*settings.compared, LAST_NOTE.format(steps=steps))
    found = [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()]
    for log in (settings.metrics, "timings.jsonl"):
        logged = [json.loads(line)["step"] for line in (b / log).read_text().splitlines()]
        found += [f"steps in {log}: {logged}"] if logged != list(range(steps)) else []
    return found + (shown_wrongly(b, steps) if command == "train" else [])


def shown_wrongly(workdir: Path, steps: int) -> list[str]:
    """What TensorBoard shows twice, or not at all."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    shown = {name: [event.step for event in board.Scalars(name)] for name in ("reward/total", "seconds/rollout")}
    return [f"steps of {name} in tensorboard: {found}" for name, found in shown.items() if found != list(range(steps))]


def make_aims(kills: int, signals: list[str], phases: list[str], seed: int) -> list[tuple[str, str]]:
    """(signal, phase) of each strike, each in turn; those at the export come last, since it ends the run."""
    aimed = [phases[i % len(phases)] for i in range(kills)]
    random.Random(f"aims {seed}").shuffle(aimed)
    aimed.sort(key=lambda phase: phase == "export")
    named = [(signals[i % len(signals)], phase) for i, phase in enumerate(aimed)]
    # Before its handler stands, Ctrl-C is Python's own.
    return [(name, "update" if name.startswith("INT") and phase == "setup" else phase) for name, phase in named]


def harness(command: str, out: Path, *, steps: int, aims: list[tuple[str, str]], damage: float, seed: int) -> dict:
    """Both runs, in `out`, and what differs between them."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    code_version()  # kept from here on by all attempts, also when somebody works on the files meanwhile
    started = time.monotonic()
    durations = run_untouched(command, out / "untouched", steps, out / "untouched.log")
    result = run_struck(command, out, steps, aims, damage, seed, durations)
    return {
        "command": command,
        "seed": seed,
        "steps": steps,
        **result,
        "differ": differences(command, out / "untouched", out / "killed", steps),
        "seconds": round(time.monotonic() - started, 1),
    }


def one_of(known: dict) -> object:
    """Type of an option: names of `known`, separated by commas."""

    def names(text: str) -> list[str]:
        if unknown := set(text.split(",")) - known.keys():
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: must be of {', '.join(known)}")
        return text.split(",")

    return names


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for both runs; emptied first")
    parser.add_argument("--command", choices=COMMANDS, default="train")
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signals", type=one_of(SIGNALS), default=["KILL"], help="separated by commas, in turn")
    known = {phase: None for command in COMMANDS.values() for phase in command.phases}
    parser.add_argument("--phases", type=one_of(known), help="separated by commas, in turn (default: the command's)")
    parser.add_argument("--damage", type=float, default=0.0, help="share of the SIGKILLs after which a file is damaged")
    given = parser.parse_args()
    phases = given.phases or list(COMMANDS[given.command].phases)
    if unknown := set(phases) - COMMANDS[given.command].phases.keys():
        parser.error(f"--phases: {given.command} has no {', '.join(sorted(unknown))}")
    aims = make_aims(given.kills, given.signals, phases, given.seed)
    found = harness(given.command, given.out, steps=given.steps, aims=aims, damage=given.damage, seed=given.seed)
    print(json.dumps(found))
    sys.exit(bool(found["differ"]))
