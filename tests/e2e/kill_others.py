"""The kill harness for what is more than one run of training in one process.

    python tests/e2e/kill_others.py evaluate --kills 12 --seed 0 --out runs/evaluations
    python tests/e2e/kill_others.py processes --kills 8 --seed 0 --out runs/pairs

evaluate: an evaluation of baselines and of a policy is struck again and again, each time when so many more episodes are
on record, so most strikes come in the middle of a contestant. Signals, in turn: KILL, TERM, INT. After a third of the
strikes a byte of a record is changed. At the end the table and every questions file are those of an untouched one.

processes: a run of two processes. Of each pair one is struck, in turn with SIGKILL (the other must end with the code of
a lost peer) and SIGTERM (both must save and say so). Both are started again, and at the end the run is the one that
nobody touched.

Prints a JSON object. Exit code 1 when a file differs.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from finemem_jax import exits
from tests.e2e import kill_harness as harness
from tests.ports import reserve_port

EPISODES = 10
# On record when a strike comes: in the middle of one of the two policies, which come after the two baselines.
TARGETS = [count for count in range(2 * EPISODES + 1, 4 * EPISODES) if count % EPISODES]
EVALUATE = (
    "evaluate",
    f"--config={harness.ROOT / 'configs/quickstart.py'}",
    *harness.TINY,
    f"--config.eval.episodes={EPISODES}",
    "--config.eval.block=1",
    "--config.eval.baselines=('store_all', 'expert')",
    "--config.eval.temperatures=(1.0, 0.0)",
    "--config.mesh.data=1",
)


# --------------------------------------------------------------------------------------------------------------
# An evaluation
# --------------------------------------------------------------------------------------------------------------


def recorded(workdir: Path) -> dict[str, int]:
    """Contestant -> episodes on record; one line is no episode."""
    return {path.stem: path.read_bytes().count(b"\n") - 1 for path in sorted((workdir / "evaluation").glob("*.jsonl"))}


def outputs(workdir: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in [workdir / "evaluation.json", *sorted(workdir.glob("questions-*.jsonl"))]}


def strike_evaluation(workdir: Path, log: Path, name: str, target: int, rng: random.Random) -> str | None:
    """Strikes when `target` episodes are on record, or a little later. Whose record was not whole then; None when the
    evaluation ended before."""
    pid = harness.forked([*EVALUATE, f"--workdir={workdir}"], log)
    end = time.monotonic() + harness.LONGEST
    while sum(recorded(workdir).values()) < target:
        if harness.wait(pid, 0.001) is not None:
            return None
        if time.monotonic() > end:
            raise TimeoutError(f"not {target} episodes within {harness.LONGEST:g} s")
    time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.1))))
    harness.strike(pid, name, log)
    code = harness.wait(pid, harness.LONGEST)
    expected = {"KILL": -signal.SIGKILL, "TERM": -signal.SIGTERM, "INT": exits.INTERRUPTED}[name]
    if code == exits.DONE:
        return None
    if code != expected:
        raise RuntimeError(f"SIG{name}: exit code {code}: see {log}")
    unfinished = [contestant for contestant, count in recorded(workdir).items() if 0 < count < EPISODES]
    return unfinished[0] if unfinished else "between two"


def damage_record(workdir: Path, rng: random.Random) -> None:
    """Changes a byte of a record, if there is one."""
    path = rng.choice(sorted((workdir / "evaluation").glob("*.jsonl")))
    content = path.read_bytes()
    start = content.find(b"\n") + 1
    if start < len(content) - 1:
        at = rng.randrange(start, len(content) - 1)
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x04]) + content[at + 1 :])


def run_evaluation(out: Path, kills: int, seed: int) -> dict:
    rng, hits, damaged = random.Random(seed), collections.Counter(), 0
    workdir, log = out / "killed", out / "killed.log"
    untouched = harness.forked([*EVALUATE, f"--workdir={out / 'untouched'}"], out / "untouched.log")
    if harness.wait(untouched, harness.LONGEST) != exits.DONE:
        raise RuntimeError(f"the untouched evaluation failed: see {out / 'untouched.log'}")
    targets = sorted(rng.sample(TARGETS, min(kills, len(TARGETS))))
    for number, target in enumerate(targets):
        name = ("KILL", "TERM", "INT")[number % 3]
        hit = strike_evaluation(workdir, log, name, target, rng)
        hits["ended before" if hit is None else f"{name} {hit}"] += 1
        if hit is not None and rng.random() < 1 / 3:
            damage_record(workdir, rng)
            damaged += 1
    if harness.wait(harness.forked([*EVALUATE, f"--workdir={workdir}"], log), harness.LONGEST) != exits.DONE:
        raise RuntimeError(f"the last attempt failed: see {log}")
    whole, found = outputs(out / "untouched"), outputs(workdir)
    differ = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
    return {"hits": dict(hits), "damaged_records": damaged, "differ": differ}


# --------------------------------------------------------------------------------------------------------------
# Two processes
# --------------------------------------------------------------------------------------------------------------


def start_pair(workdir: Path, steps: int, out: Path) -> list[int]:
    settings, port = harness.COMMANDS["train"], reserve_port()
    arguments = ["train", f"--config={harness.ROOT / settings.config}", f"--workdir={workdir}", *harness.TINY]
    arguments += [*settings.options(steps), "--config.train.episodes=2", f"--coordinator=localhost:{port}"]
    arguments += ["--processes=2", "--start-timeout=600"]
    return [harness.forked([*arguments, f"--process={i}"], out / f"{workdir.name}-{i}.log") for i in range(2)]


def run_pairs(out: Path, kills: int, steps: int, seed: int) -> dict:
    rng, hits, workdir = random.Random(seed), collections.Counter(), out / "killed"
    if [harness.wait(pid, harness.LONGEST) for pid in start_pair(out / "untouched", steps, out)] != [exits.DONE] * 2:
        raise RuntimeError(f"the untouched run failed: see {out}")
    for number in range(kills):
        pair = start_pair(workdir, steps, out)
        victim, name = rng.randrange(2), ("KILL", "TERM")[number % 2]
        phase = rng.choice(["rollout", "update", "log", "checkpoint"])
        if harness.wait_for_phase(pair[0], workdir, phase, 1 + (number > 0)) is not None:
            raise RuntimeError(f"the run ended before it was struck: see {out}")
        time.sleep(rng.uniform(0.0, 0.5))
        hits[f"{name} process {victim} {harness.heartbeat(workdir, pair[0])['phase']}"] += 1
        harness.strike(pair[victim], name, out / f"{workdir.name}-{victim}.log")
        codes = [harness.wait(pid, harness.LONGEST) for pid in pair]
        expected = {"TERM": [exits.PREEMPTED] * 2, "KILL": [exits.LOST_PEER] * 2}[name]
        if name == "KILL":
            expected[victim] = -signal.SIGKILL
        if codes != expected:
            raise RuntimeError(f"SIG{name} to process {victim}: exit codes {codes}, not {expected}: see {out}")
    if [harness.wait(pid, harness.LONGEST) for pid in start_pair(workdir, steps, out)] != [exits.DONE] * 2:
        raise RuntimeError(f"the last attempt failed: see {out}")
    return {"hits": dict(hits), "differ": harness.differences("train", out / "untouched", workdir, steps)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("evaluate", "processes"))
    parser.add_argument("--out", type=Path, required=True, help="folder for both runs; emptied first")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12, help="of a run of two processes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    harness.code_version()  # kept from here on by all attempts, also when somebody works on the files meanwhile
    if given.what == "evaluate":
        result = run_evaluation(given.out, given.kills, given.seed)
    else:
        result = run_pairs(given.out, given.kills, given.steps, given.seed)
    print(json.dumps({"what": given.what, "seed": given.seed, "kills": given.kills, **result}))
    sys.exit(bool(result["differ"]))
