"""Ctrl-C at any moment of a start is one line, and an address where a path is needed is, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax import exits, main
from finemem_jax.interrupts import end_as_usual, end_at_once

ROOT = Path(__file__).parents[1]

# Sends the signal when the import of a module begins, which is a moment in the middle of the imports.
INTERRUPTED = """
import os, runpy, signal, sys

_, module, started, workdir = sys.argv
sys.argv = ["finemem", "train", "--workdir=" + workdir]
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Watch())
runpy.run_module(started, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["ml_collections", "jax", "numpy._core.numeric", "finemem_jax.train"])
@pytest.mark.parametrize("started", ["finemem_jax", "finemem_jax.main"])  # python -m
def test_ctrl_c_during_the_imports_is_one_line(tmp_path, started, module):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", INTERRUPTED, module, started, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == exits.INTERRUPTED
    assert done.stderr == "finemem: interrupted before anything had begun\n" and done.stdout == ""


def test_the_handler_is_as_it_was_afterwards():
    before = signal.getsignal(signal.SIGINT)
    assert main.main(["report", "--workdir=nowhere"]) == exits.USER_ERROR
    assert signal.getsignal(signal.SIGINT) is before
    try:
        for handler in (signal.SIG_IGN, lambda *_: None):  # what somebody else decided stays
            signal.signal(signal.SIGINT, handler)
            end_at_once()
            assert signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.default_int_handler)
        end_at_once()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        end_as_usual()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--workdir=gs://bucket/run"],
        ["train", "--config.data.path=gs://bucket/rows.parquet"],
        ["train", "--config.model.path=s3://bucket/model"],
        ["train", "--config.answerer.cache=gs://bucket/cache"],
        ["sft", "--workdir=gs://bucket/run"],
        ["evaluate", "--policy=gs://bucket/run"],
        ["evaluate", "--workdir=https://host/run"],
        ["sweep", "--configs=quickstart", "--workdir=gs://bucket/run"],
        ["export", "--workdir=run", "--out=gs://bucket/model"],
        ["report", "--workdir=gs://bucket/run"],
        ["data", "build", "--source=text", "--input=gs://bucket/texts", "--output=x.parquet"],
    ],
    ids=" ".join,
)
def test_an_address_where_a_path_is_needed_is_refused(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main.main(command) == exits.USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert "://" in line and "only local paths are read and written" in line
    assert list(tmp_path.iterdir()) == []
