"""The launch scripts without a run: what they print, refuse and decide. The whole of tpu_run.sh: test_processes.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def script(name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("TPU", "ZONE", "WORKDIR", "PYTHON", "PROJECT")}
    return subprocess.run(
        ["bash", f"launch/{name}", *arguments], cwd=REPOSITORY, env=clean | settings, capture_output=True, text=True
    )


@pytest.mark.parametrize("missing", ["TPU", "ZONE", "WORKDIR"])
def test_tpu_run_names_what_it_needs(missing):
    settings = {"TPU": "slice", "ZONE": "here", "WORKDIR": "/mnt/run"}
    del settings[missing]
    done = script("tpu_run.sh", "--dry-run", **settings)
    assert done.returncode != 0 and missing in done.stderr and done.stdout == ""


def test_a_dry_run_prints_every_command_and_runs_none():
    settings = {"TPU": "slice", "ZONE": "here", "WORKDIR": "/mnt/run", "PATH": "/usr/bin:/bin"}
    done = script("tpu_run.sh", "--dry-run", "--", "--config.name=two words", PROJECT="mine", **settings)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("git archive ") and " scp " in lines[1]
    assert all("--zone=here --project=mine" in line and "slice" in line for line in lines[1:])
    assert [word in done.stdout for word in ("environment.sh", "start", "follow", "status", "stop")] == [True] * 5
    (start,) = [line for line in lines if "worker.sh\\ start" in line]
    assert "--workdir=/mnt/run" in start and "--worker=all" in start and "two" in start


def test_overrides_follow_two_dashes():
    done = script("tpu_run.sh", "--config.seed=1", TPU="slice", ZONE="here", WORKDIR="/mnt/run")
    assert done.returncode == 2 and "options of the run follow --" in done.stderr


def test_a_worker_keeps_the_exit_code_and_stops_only_its_own(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\n[ "$3" = wait ] && exec sleep 600\necho "$@"; exit 7\n')
    python.chmod(0o755)
    settings = {"PYTHON": str(python), "HOME": str(tmp_path), "STOP_SECONDS": "20"}
    run, other = tmp_path / "run", tmp_path / "other"

    def status(folder: Path) -> str:
        return script("worker.sh", "status", str(folder), **settings).stdout.strip()

    assert status(run) == "absent"
    assert script("worker.sh", "start", str(other), "wait", **settings).returncode == 0
    assert script("worker.sh", "start", str(run), "train", "--config.name=two words", **settings).returncode == 0
    script("worker.sh", "follow", str(run), **settings)  # returns when the run has ended
    for _ in range(100):
        if status(run) == "exited 7":
            break
    assert status(run) == "exited 7"
    assert (run / "log").read_text() == "-m finemem_jax.main train --config.name=two words\n"
    script("worker.sh", "stop", str(run), **settings)
    assert status(other) == "running"
    assert script("worker.sh", "start", str(other), "wait", **settings).returncode == 2
    script("worker.sh", "stop", str(other), **settings)
    assert status(other) in ("exited 143", "killed")


@pytest.mark.parametrize(
    ("code", "restarts", "is_requeued"), [(75, 0, True), (137, 3, True), (76, 20, False), (2, 0, False)]
)
def test_slurm_run_queues_again_what_a_restart_mends(tmp_path, code, restarts, is_requeued):
    for name, text in {"srun": f"echo srun $*; exit {code}", "scontrol": "echo scontrol $*"}.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = script(
        "slurm_run.sh",
        "--",
        "--config.seed=1",
        WORKDIR="/mnt/run",
        PYTHON="python3",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        SLURM_JOB_ID="55",
        SLURM_RESTART_COUNT=str(restarts),
    )
    assert done.returncode == code
    assert (
        "srun --kill-on-bad-exit=0 python3 -m finemem_jax.main train --workdir=/mnt/run --config.seed=1" in done.stdout
    )
    assert ("scontrol requeue 55" in done.stdout) == is_requeued
