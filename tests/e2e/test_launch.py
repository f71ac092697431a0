"""The launch scripts without a run: what they print, refuse and decide. The whole of tpu_run.sh: test_processes.py."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def script(name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("TPU", "ZONE", "WORKDIR", "PYTHON", "PROJECT")}
    return subprocess.run(
        ["bash", f"launch/{name}", *arguments], cwd=REPOSITORY, env=clean | settings, capture_output=True, text=True
    )


def test_the_contest_is_one_command_over_configs_that_exist():
    done = script("contest.sh", "--dry-run", TASKS="diary_long", SEEDS="0,1")
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    warm_start, line = lines
    specs = next(word for word in line if word.startswith("--configs=")).removeprefix("--configs=").split(",")
    assert done.returncode == 0 and warm_start[:2] == ["finemem", "sft"]
    assert f"--config.model.path={warm_start[3].removeprefix('--workdir=')}/hf" in line
    assert {Path(spec.partition(":")[0]).name for spec in specs} == {
        path.name for path in (REPOSITORY / "configs" / "contest").glob("*.py")
    }
    bounds = dict(word.split("=") for word in line if ".budget_" in word)
    assert all(int(bounds[f"--config.train.budget_{name}"]) > 0 for name in ("tokens", "answers"))
    assert "--seeds=0,1" in line


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
    assert status(run) == "exited 7"
    assert (run / "log").read_text() == "-m finemem_jax.main train --config.name=two words\n"
    script("worker.sh", "stop", str(run), **settings)
    assert status(other) == "running"
    assert script("worker.sh", "start", str(other), "wait", **settings).returncode == 2
    script("worker.sh", "stop", str(other), **settings)
    assert status(other) in ("exited 143", "killed")


def test_a_run_that_ends_while_it_is_looked_at_has_its_exit_code(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    run, cat = tmp_path / "run", tmp_path / "bin" / "cat"
    for folder in (run, cat.parent):
        folder.mkdir()
    (run / "pid").write_text(f"{ended.pid}\n")
    cat.write_text(f'#!/usr/bin/env bash\necho 0 > "{run}/code"\nexec /bin/cat "$@"\n')  # who reads the pid is late
    cat.chmod(0o755)
    done = script("worker.sh", "status", str(run), PATH=f"{cat.parent}:{os.environ['PATH']}")
    assert done.stdout == "exited 0\n"


# A folder may be called anything. What a shell would run of these leaves a file behind.
PWNED = "touch $STANDIN_FILE"
HOSTILE = {
    "space": "two words",
    "substitution": f"$({PWNED})",
    "backquotes": f"`{PWNED}`",
    "commands": f"a; {PWNED}; b && {PWNED} | cat > x",
    "parenthesis": "a)",
    "quotes": f"'\"' ; {PWNED} '",
    "newline": f"a\n{PWNED}\n)",
    "unicode": "é 漢字 😀",
    "dash": "-rf",
    "pattern": "* ? [a] ~ #b \\ $HOME ${HOME} !",
    "long": "x" * 250,
}


@pytest.fixture
def hostile(tmp_path):
    """Settings for the scripts, with `name` in all that names something; with stand-ins for gcloud and srun, and an
    interpreter that keeps its arguments in ARGUMENTS and ends with code 0."""

    def settings(name: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        python = folder / f"py {name[:20]}"
        keeps = 'printf "%s\\0" "$@" > "$ARGUMENTS${JAX_PROCESS_ID:-}"'
        standin = f'exec {shlex.quote(sys.executable)} {shlex.quote(str(REPOSITORY))}/tests/e2e/gcloud_standin.py "$@"'
        for path, text in {python: keeps, folder / "gcloud": standin, folder / "srun": f"shift 2; {keeps}"}.items():
            path.write_text(f"#!/usr/bin/env bash\n{text}\n")
            path.chmod(0o755)
        for worker in range(2):
            (tmp_path / f"worker-{worker}").mkdir()
        return {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "STANDIN": str(tmp_path),
            "STANDIN_PORT": "1",
            "STANDIN_FILE": str(tmp_path / "pwned"),
            "ARGUMENTS": str(tmp_path / "arguments"),
            "TPU": "slice",
            "ZONE": name,
            "PROJECT": name,
            "WORKDIR": f"/shared/{name}",
            "PYTHON": str(python),
            "POLL_SECONDS": "0",
            "MAX_RESTARTS": "0",
        }

    return settings


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_name_is_a_name_in_every_shell(kind, hostile, tmp_path):
    name = HOSTILE[kind]
    done = script("tpu_run.sh", "--", f"--config.name={name}", "", **hostile(name))
    assert done.returncode == 0, done.stdout + done.stderr
    for worker in range(2):
        arguments = (tmp_path / f"arguments{worker}").read_text().split("\0")[:-1]
        assert arguments == [
            "-m",
            "finemem_jax.main",
            "train",
            f"--workdir=/shared/{name}",
            f"--config.name={name}",
            "",
        ]
    assert not (tmp_path / "pwned").exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "bin",
        "calls",
        *(f"{n}{w}" for n in ("arguments", "worker-") for w in (0, 1)),
    }


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_name_is_a_name_in_slurms_script(kind, hostile, tmp_path):
    name = HOSTILE[kind]
    done = script("slurm_run.sh", "--", f"--config.name={name}", **hostile(name))
    assert done.returncode == 0, done.stdout + done.stderr
    arguments = (tmp_path / "arguments").read_text().split("\0")[:-1]
    assert arguments == ["-m", "finemem_jax.main", "train", f"--workdir=/shared/{name}", f"--config.name={name}"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_worker_finds_its_run_in_a_folder_of_any_name(kind, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\nexec sleep 600\n")
    python.chmod(0o755)
    settings = {"PYTHON": str(python), "HOME": str(tmp_path), "STOP_SECONDS": "60"}
    settings["STANDIN_FILE"] = str(tmp_path / "pwned")
    run = str(tmp_path / HOSTILE[kind])
    assert script("worker.sh", "start", run, **settings).returncode == 0
    assert script("worker.sh", "status", run, **settings).stdout == "running\n"
    other = script("worker.sh", "start", run, **settings)
    assert other.returncode == 2 and "is running already" in other.stderr
    script("worker.sh", "stop", run, **settings)
    assert script("worker.sh", "status", run, **settings).stdout in ("exited 143\n", "killed\n")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["MAX_RESTARTS", "POLL_SECONDS"])
def test_a_setting_that_is_no_number_is_refused(name):
    for given in ("many", "-1", "1.5", "a[$(touch pwned)]"):
        done = script("tpu_run.sh", "--dry-run", TPU="slice", ZONE="here", WORKDIR="/mnt/run", **{name: given})
        assert done.returncode == 2 and f"{name}={given} must be a whole number" in done.stderr
    done = script("slurm_run.sh", "--dry-run", WORKDIR="/mnt/run", MAX_RESTARTS="many")
    assert done.returncode == 2 and "MAX_RESTARTS=many must be a whole number" in done.stderr


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
