"""Runs of several processes on this machine, which must be the runs of one; and what happens when one is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finemem_jax import exits, main
from finemem_jax.files import read_lines
from tests.compiling import quick_compilation
from tests.ports import reserve_port

REPOSITORY = Path(__file__).parents[2]
TINY = (
    "--config=configs/quickstart.py",
    "--config.train.steps=4",
    "--config.train.episodes=2",
    "--config.train.mini_batches=1",
    "--config.train.group_size=2",
    "--config.train.microbatch_rows=1",
    "--config.train.row_tokens=384",
    "--config.train.checkpoint_every=1",
    "--config.train.eval_every=0",
    "--config.eval.episodes=2",
    "--config.eval.temperatures=(0.0,)",
    "--config.eval.baselines=('oracle',)",
    "--config.engine.slots=4",
    "--config.data.diary.chunks=2",
)
# What a run of several processes must have in common with that of one; times and rounding apart.
COMPARED = ("loss/loss", "loss/nll", "loss/grad_norm", "reward/total", "accuracy", "memory_tokens", "completion_tokens")
SECONDS = 600  # for anything to happen on a busy machine; nothing here takes a tenth of it on an idle one


def environment() -> dict[str, str]:
    """One CPU device per process, and compiled functions shared by all of them."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".cache" / "jax-processes"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "MPLCONFIGDIR": str(REPOSITORY / ".cache" / "matplotlib"),  # each worker has a home of its own
    }
    return os.environ | cache | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(quick_compilation())}


class Processes:
    """`finemem train`, or another command, in `count` processes, each with its standard error in a file."""

    def __init__(
        self,
        folder: Path,
        workdir: Path,
        count: int,
        *overrides: str,
        per_process: dict | None = None,
        command: str = "train",
    ):
        port = reserve_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"process-{i}.log" for i in range(count)]
        self.all = []
        for i, log in enumerate(self.logs):
            place = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={i}", "--start-timeout=300"]
            own = (per_process or {}).get(i, ())
            arguments = [f"--workdir={workdir}", *TINY, *overrides, *own]
            started = [sys.executable, "-m", "finemem_jax.main", command, *arguments]
            with log.open("w") as file:
                self.all.append(
                    subprocess.Popen(
                        started + (place if count > 1 else []),
                        cwd=REPOSITORY,
                        env=environment() | {"PYTHONPATH": str(REPOSITORY)},
                        stdout=file,
                        stderr=file,
                    )
                )

    def wait(self) -> list[int]:
        codes = [process.wait(timeout=SECONDS) for process in self.all]
        return codes

    def text(self, process: int) -> str:
        return self.logs[process].read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.wait()


def train(folder: Path, workdir: Path, count: int, *overrides: str) -> None:
    with Processes(folder, workdir, count, *overrides) as run:
        codes = run.wait()
        assert codes == [0] * count, "\n".join(run.text(i)[-3000:] for i in range(count))


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {SECONDS} s"
        time.sleep(0.05)


def assert_same_curve(first: Path, second: Path, steps: int = 4) -> None:
    one, other = (read_lines(workdir / "metrics.jsonl") for workdir in (first, second))
    assert [line["step"] for line in one] == [line["step"] for line in other] == list(range(steps))
    assert one[0]["loss/loss"] != one[-1]["loss/loss"]
    for a, b in zip(one, other, strict=True):
        for name in COMPARED:
            assert b[name] == pytest.approx(a[name], abs=1e-4), (a["step"], name)
    before, after = (read_lines(workdir / "evaluations.jsonl") for workdir in (first, second))
    assert [line["accuracy"] for line in before] == [line["accuracy"] for line in after]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The workdir of a run of one process, this one, that was never stopped."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert main.main(["train", *TINY, "--config.mesh.data=1", f"--workdir={workdir}"]) == exits.DONE
    return workdir


def test_a_killed_worker_is_noticed_and_the_restarted_run_is_that_of_one_process(alone, tmp_path):
    """launch/tpu_run.sh, whole, against a stand-in for gcloud whose two workers are local processes."""
    for worker in range(2):
        (tmp_path / f"worker-{worker}").mkdir()
    standin = tmp_path / "bin" / "gcloud"
    standin.parent.mkdir()
    standin.write_text(f'#!/usr/bin/env bash\nexec {sys.executable} {REPOSITORY}/tests/e2e/gcloud_standin.py "$@"\n')
    standin.chmod(0o755)
    workdir, log = tmp_path / "shared" / "run", tmp_path / "script.log"
    settings = {
        "PATH": f"{standin.parent}:{os.environ['PATH']}",
        "STANDIN": str(tmp_path),
        "STANDIN_PORT": str(reserve_port()),
        "TPU": "slice",
        "ZONE": "here",
        "WORKDIR": str(workdir),
        "PYTHON": sys.executable,
        "POLL_SECONDS": "2",
        "MAX_RESTARTS": "2",
    }
    inherited = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    with log.open("w") as file:
        script = subprocess.Popen(
            ["bash", "launch/tpu_run.sh", "--", *TINY, "--start-timeout=300"],
            cwd=REPOSITORY,
            env=inherited | settings,
            stdout=file,
            stderr=file,
        )
    try:
        wait_for(lambda: (workdir / "checkpoints" / "1").is_dir() or script.poll() is not None, "checkpoint")
        assert script.poll() is None, log.read_text()
        (pid,) = (tmp_path / "worker-1").glob("finemem_jax/runs/*/pid")
        os.killpg(int(pid.read_text()), signal.SIGKILL)
        wait_for(lambda: "is gone" in log.read_text(), "line about the lost process")
        assert script.wait(timeout=SECONDS) == 0, log.read_text()
    finally:
        script.terminate()
        script.wait(timeout=SECONDS)
    said = log.read_text()
    assert "process 1 of 2 on" in said and "its connection closed" in said
    assert "restart 1 of 2, from the newest checkpoint" in said and "restart 2 of 2" not in said
    assert "resumed at step" in said and "the run ended with exit code 0" in said
    assert_same_curve(alone, workdir)
    shipped = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("scp")]
    assert len(shipped) == 1 and "--worker=all" in shipped[0] and "--zone=here" in shipped[0]


def test_a_mesh_that_does_not_fit_ends_every_process_with_one_line(tmp_path):
    with Processes(tmp_path, tmp_path / "run", 2, "--config.mesh.data=3") as run:
        assert run.wait() == [exits.USER_ERROR] * 2
        for process in range(2):
            lines = [line for line in run.text(process).splitlines() if line.startswith("finemem: ")]
            assert len(lines) == 1 and "mesh data=3" in lines[0] and "config.mesh.data" in lines[0], run.text(process)
            assert "Traceback" not in run.text(process)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


# --------------------------------------------------------------------------------------------------------------
# Slow
# --------------------------------------------------------------------------------------------------------------

FOUR = ("--config.train.episodes=4",)


@pytest.fixture(scope="module")
def alone_with_four_groups(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, folder / "run", 1, *FOUR)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(("count", "mesh"), [(2, ()), (4, ()), (4, ("--config.mesh.data=2", "--config.mesh.fsdp=2"))])
def test_several_processes_have_the_curve_of_one(alone_with_four_groups, tmp_path, count, mesh):
    train(tmp_path, tmp_path / "run", count, *FOUR, *mesh)
    assert_same_curve(alone_with_four_groups, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_written_by_four_resumes_in_fewer(alone_with_four_groups, tmp_path, count):
    train(tmp_path / "four", tmp_path / "run", 4, *FOUR)
    for step in ("3", "4"):  # as if it had ended here
        shutil.rmtree(tmp_path / "run" / "checkpoints" / step, ignore_errors=True)
    train(tmp_path / "fewer", tmp_path / "run", count, *FOUR)
    assert "resumed at step 2" in (tmp_path / "fewer" / "process-0.log").read_text()
    assert_same_curve(alone_with_four_groups, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_sigterm_to_one_process_saves_and_ends_all(alone, tmp_path, victim):
    with Processes(tmp_path / "first", tmp_path / "run", 2, "--config.train.checkpoint_every=4") as run:
        wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and _steps(tmp_path / "run") >= 1, "step")
        run.all[victim].send_signal(signal.SIGTERM)
        codes = run.wait()
        assert codes in ([exits.PREEMPTED] * 2, [0, 0]), run.text(0) + run.text(1)
    train(tmp_path / "second", tmp_path / "run", 2, "--config.train.checkpoint_every=4")
    assert_same_curve(alone, tmp_path / "run")


@pytest.mark.slow
def test_an_evaluation_of_two_processes_writes_the_bytes_of_one(tmp_path):
    # of three episodes in blocks of two: the last block leaves process 1 without any
    given = (
        "--config.eval.episodes=3",
        "--config.eval.block=2",
        "--config.eval.baselines=('store_all', 'rag', 'mem1')",
    )
    for count in (1, 2):
        folder = tmp_path / str(count)
        with Processes(folder, folder / "evaluation", count, *given, command="evaluate") as run:
            assert run.wait() == [0] * count, "\n".join(run.text(i)[-3000:] for i in range(count))
    written = {path.name: path.read_bytes() for path in (tmp_path / "1" / "evaluation").glob("*.json*")}
    assert set(written) >= {"evaluation.json", "questions-store_all.jsonl", "questions-mem1.jsonl"}
    assert {name: (tmp_path / "2" / "evaluation" / name).read_bytes() for name in written} == written


@pytest.mark.slow
def test_processes_with_another_config_refuse_each_other(tmp_path):
    other = {1: ("--config.optimizer.lr=0.5",)}
    with Processes(tmp_path, tmp_path / "run", 2, per_process=other) as run:
        assert run.wait() == [exits.USER_ERROR] * 2
        for process in range(2):
            assert "processes 0 and 1 have another config (config.optimizer.lr: 0.001 and 0.5)" in run.text(process)


@pytest.mark.slow
def test_a_lost_process_0_ends_the_others_with_one_line(tmp_path):
    with Processes(tmp_path, tmp_path / "run", 2) as run:
        wait_for(lambda: (tmp_path / "run" / "checkpoints" / "1").is_dir(), "checkpoint")
        run.all[0].kill()
        assert run.all[1].wait(timeout=SECONDS) == exits.LOST_PEER
        # Noticed by the closing itself, and not by a silence that has to be waited for.
        assert "process 0 of 2" in run.text(1) and "is gone: its connection closed" in run.text(1)
        assert "Check failure stack trace" not in run.text(1)  # jax's own end, which names no cause


def _steps(workdir: Path) -> int:
    return len(read_lines(workdir / "metrics.jsonl"))
