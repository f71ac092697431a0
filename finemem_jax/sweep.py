"""Ablations and sweeps: every config with every seed, one process each, and one table and one figure over all of them.

    finemem sweep --configs=configs/ablations/outcome_only.py,configs/ablations/full.py --seeds=0,1,2 --workdir=runs/x

A run lives in WORKDIR/ROW/seed-SEED and is an ordinary run of `finemem train`: a sweep that was stopped and is started
again leaves finished runs alone and resumes the others. What is compared comes from each run's results.json.

The folder belongs to one sweep at a time, and its runs save and end with it, however it ends (attached.py). A run
that another process still has, such as one that a killed sweep has left to save its state, is waited for.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finemem_jax import config, exits
from finemem_jax.config import Config, UserError
from finemem_jax.console import Progress, tell
from finemem_jax.evaluation.paired import HELDOUT_SCORES, Scores, read_scores
from finemem_jax.files import export_folders, has_step, is_number, read_lines, read_object
from finemem_jax.reporting.sweep_table import Row, write_sweep
from finemem_jax.run import workdir as workdirs

TIMINGS = "timings.jsonl"  # of a training run


@dataclass(frozen=True, slots=True)
class Run:
    """One row's run with one seed."""

    row: str  # the config file's name, with its argument: "full", "beta=0.25"
    seed: int
    cfg: Config
    workdir: Path
    arguments: tuple[str, ...]  # of the `finemem` command

    @property
    def command(self) -> str:
        return shlex.join(["finemem", *self.arguments])

    def is_finished(self) -> bool:
        """Whether the run was trained, evaluated and exported. Raises UserError when its folder is another's."""
        stored = read_object(self.workdir / "config.json")
        folders = export_folders(self.workdir / "hf", self.cfg.model.lora.roles)
        is_exported = all((folder / "config.json").is_file() for folder in folders)
        if stored is None or self.results() is None or not is_exported:
            return False
        old, new = (workdirs.flat(tree) for tree in (stored, json.loads(json.dumps(config.to_dict(self.cfg)))))
        # Fields of one side alone came with a change of the code, which a long sweep may well outlive.
        changed = sorted(key for key in old.keys() & new.keys() if old[key] != new[key])
        if changed:
            raise UserError(
                f"{self.workdir} holds a run with another config ({', '.join(changed)}): choose another --workdir"
            )
        return True

    def results(self) -> dict[str, dict[str, float]] | None:
        """policy -> metric -> value; None where the run has no results, or a file that says none: it has to be trained
        to its end once more, which a run that has its checkpoints does at once."""
        found = read_object(self.workdir / "results.json")
        is_whole = found is not None and all(isinstance(metrics, dict) for metrics in found.values())
        return found if is_whole else None


def row_name(spec: str) -> str:
    """ "configs/ablations/beta.py:0.25" -> "beta=0.25", the row's name and its folder's."""
    path, _, argument = spec.partition(":")
    if not re.fullmatch(r"[\w.+-]*", argument):
        raise UserError(f"--configs: {spec}: an argument may hold letters, digits and . + - _ only")
    return f"{Path(path).stem}={argument}" if argument else Path(path).stem


def sweep(runs: Sequence[Run], workdir: Path, jobs: int) -> int:
    """Runs what is not finished, `jobs` at once, and writes WORKDIR/sweep.{md,csv,json,png,svg}.

    Returns the exit code: DONE; RUN_FAILED, after the other runs were run and compared all the same; INTERRUPTED after
    Ctrl-C and PREEMPTED after SIGTERM, once the runs under way have saved (a second Ctrl-C ends them at once).
    """
    if jobs < 1:
        raise UserError(f"--jobs={jobs}: must be at least 1")
    places: set[Path] = set()
    for run in runs:
        if run.workdir in places:
            raise UserError(f"--configs and --seeds name {run.row} with seed {run.seed} twice")
        places.add(run.workdir)
    for run in runs:
        run.is_finished()  # raises where a folder holds another run
    with workdirs.locked(workdir):
        try:
            failed = _run_all([run for run in runs if not run.is_finished()], len(runs), workdir, jobs)
        except KeyboardInterrupt:
            return exits.INTERRUPTED
        except _Preempted:
            return exits.PREEMPTED
        rows = compare(runs)
        if rows:
            write_sweep(workdir, rows)
    for run in failed:
        tell(f"failed: {run.command}", file=sys.stderr)
    return exits.RUN_FAILED if failed else exits.DONE


def _run_all(waiting: Sequence[Run], total: int, workdir: Path, jobs: int) -> list[Run]:
    """Runs all, `jobs` at once; returns those that failed."""
    environments = _environments(jobs, workdir)
    todo, failed, ended = list(waiting), [], total - len(waiting)
    running: dict[int, tuple[Run, subprocess.Popen]] = {}  # by slot
    held: set[Path] = set()  # folders that another process has, as was said
    end, life = os.pipe()  # the runs have `end`; nobody but this process has `life`, which closes with it
    before = signal.signal(signal.SIGTERM, _preempt)
    try:
        with Progress(total, "sweep") as progress:
            progress.say(f"{total} runs, {ended} of them finished before, {jobs} at once, in {workdir}")
            while running or todo:
                for run in _startable(todo, jobs - len(running), held, progress):
                    todo.remove(run)
                    if run.is_finished():  # by the process that had it
                        ended += 1
                        progress.say(f"{run.row} seed {run.seed}: done by another process")
                        continue
                    slot = min(set(range(jobs)) - running.keys())
                    running[slot] = run, _start(run, environments[slot], end)
                    progress.say(f"{run.row} seed {run.seed}: started, {run.workdir / 'log.txt'}")
                time.sleep(0.2)
                for slot, (run, process) in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[slot]
                    ended += 1
                    progress.update(ended)
                    progress.say(f"{run.row} seed {run.seed}: {'done' if code == 0 else f'exit code {code}'}")
                    # The machine goes away (a SIGTERM before a run took signals itself, too): all runs hear of it.
                    if code in (exits.INTERRUPTED, exits.PREEMPTED, -signal.SIGTERM):
                        raise KeyboardInterrupt if code == exits.INTERRUPTED else _Preempted
                    if code:
                        failed.append(run)
                        progress.say(_last_lines(run.workdir / "log.txt"))
    finally:
        _stop([process for _, process in running.values()])
        signal.signal(signal.SIGTERM, before)
        os.close(end)
        os.close(life)
    return failed


def _startable(todo: Sequence[Run], count: int, held: set[Path], progress: Progress) -> list[Run]:
    """The first `count` runs that no other process has; says once of each of the others who has it."""
    free: list[Run] = []
    for run in todo:
        if len(free) == count:
            break
        if not (other := workdirs.holder(run.workdir)):
            free.append(run)
        elif run.workdir not in held:
            held.add(run.workdir)
            progress.say(f"{run.row} seed {run.seed}: waiting for {other}, which has {run.workdir}")
    return free


class _Preempted(Exception):
    """SIGTERM: the machine is taken away."""


def _preempt(signum: int, frame: object) -> None:
    raise _Preempted


def _start(run: Run, environment: Mapping[str, str], end: int) -> subprocess.Popen:
    run.workdir.mkdir(parents=True, exist_ok=True)
    with (run.workdir / "log.txt").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "finemem_jax.attached", str(end), *run.arguments],
            pass_fds=(end,),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which then asks its runs to save, once
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Asks the runs to save and end, and waits for them; kills them when it is interrupted while it waits."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    try:
        for process in processes:
            process.wait()
    except (KeyboardInterrupt, _Preempted):
        for process in processes:
            process.kill()
            process.wait()


def _environments(jobs: int, workdir: Path) -> list[dict[str, str]]:
    """The environment of each slot's processes: a share of the GPUs when several run at once, and one shared cache of
    compiled programs, which saves all runs but the first the compilation."""
    base = dict(os.environ)
    base.setdefault("JAX_COMPILATION_CACHE_DIR", str((workdir / ".jax-cache").resolve()))
    gpus = _gpus() if jobs > 1 and base.get("JAX_PLATFORMS") != "cpu" else []
    if not gpus:
        return [base] * jobs
    if jobs > len(gpus):
        raise UserError(f"--jobs={jobs}: there are {len(gpus)} GPUs, one run needs at least one")
    shares = np.array_split(gpus, jobs)
    return [{**base, "CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _gpus() -> list[str]:
    """Ids of the NVIDIA GPUs this process may use. JAX is not asked: it would take the memory its children need."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def _last_lines(path: Path, count: int = 5) -> str:
    return "\n".join(f"    {line}" for line in path.read_text("utf-8", errors="replace").splitlines()[-count:])


# --------------------------------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------------------------------


def compare(runs: Sequence[Run]) -> list[Row]:
    """One row per config: its metrics over the seeds that are finished. A config without any is left out."""
    rows = []
    for name in dict.fromkeys(run.row for run in runs):
        finished = [run for run in runs if run.row == name and run.is_finished()]
        results = [found for run in finished if (found := run.results()) is not None]
        if results:
            seeds = tuple(run.seed for run in finished)
            commands = tuple(run.command for run in runs if run.row == name)
            episodes, spent = [_episodes(run) for run in finished], _together([_spent(run) for run in finished])
            rows.append(Row(name, seeds, seed_values(results), commands, episodes, spent))
    return rows


def _spent(run: Run) -> dict[str, float]:
    """What training took: tokens sampled, different questions to the answerer, seconds. Empty where the run has no
    such record."""
    try:
        lines = read_lines(run.workdir / TIMINGS, has_step)
    except OSError:
        return {}
    if not lines:
        return {}
    seconds = [value for line in lines for name, value in line.items() if name.startswith("seconds/")]
    found = {name: lines[-1].get(f"budget/{name}") for name in ("tokens", "answers")}
    found |= {"seconds": sum(value for value in seconds if is_number(value))}
    return {name: float(value) for name, value in found.items() if is_number(value)}


def _together(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """name -> a value per seed, for what is known of every seed."""
    return {
        name: [of_seed[name] for of_seed in found] for name in found[0] if all(name in of_seed for of_seed in found)
    }


def _episodes(run: Run) -> dict[str, Scores]:
    """policy -> the scores of its held-out episodes, for what was evaluated after training or where a budget was spent.
    Empty where the run has no such file, as before there was one."""
    try:
        lines = read_lines(run.workdir / HELDOUT_SCORES, has_step)
    except OSError:
        return {}
    found = {}
    for policy, metrics in (run.results() or {}).items():
        when, _, name = policy.rpartition(" ")
        own = [line for line in lines if line.get("policy") == name]
        if when != "after":
            own = [line for line in own if when.startswith("at ") and line["step"] == metrics.get("step")]
        scores = read_scores(own[-1]) if own else None
        if scores is not None:
            found[policy] = scores
    return found


def seed_values(results: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """policy -> metric -> its value with each seed, for the metrics that every seed's results.json has a number for: an
    accuracy that one seed got no answers for is missing from the row."""
    policies = [name for name in results[0] if all(name in result for result in results)]
    return {
        policy: {
            metric: [float(result[policy][metric]) for result in results]
            for metric, first in results[0][policy].items()
            if isinstance(first, float) and all(is_number(result[policy].get(metric)) for result in results)
        }
        for policy in policies
    }
