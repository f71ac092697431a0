"""The warm start at a small size: what it trains, writes and evaluates, and that it goes on where it stopped."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

from finemem_jax import exits, main, sft
from finemem_jax.files import read_lines
from finemem_jax.run import workdir as workdirs
from finemem_jax.weights import hf

TINY = (
    "--config.sft.stages=('copy_lines', 'expert')",
    "--config.sft.steps=(3, 3)",
    "--config.sft.lr=(1e-3, 1e-3)",
    "--config.sft.batch=8",
    "--config.sft.save_dtype=bfloat16",
    "--config.sft.pool=16",
    "--config.sft.checkpoint_every=1",
    "--config.sft.eval_every=4",
    "--config.sft.eval_examples=8",
    "--config.train.keep_checkpoints=6",
    "--config.eval.episodes=2",
    "--config.engine.slots=8",
    "--config.mesh.data=1",
)
BY_SEED = ("sft_metrics.jsonl", "evaluations.jsonl", "results.json", "hf/model.safetensors")


@pytest.fixture(scope="module")
def cfg():
    return main.load_config("configs/warm_start.py", TINY)


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory):
    """A finished warm start: its workdir and what it returned."""
    workdir = tmp_path_factory.mktemp("sft")
    return workdir, sft.sft(cfg, workdir)


def test_sft_lowers_the_loss_and_exports(run):
    workdir, trained = run
    _, params = hf.load_pretrained(str(workdir / "hf"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), params, trained.params)  # bfloat16
    lines = read_lines(workdir / "sft_metrics.jsonl")
    assert [(line["step"], line["stage"]) for line in lines] == [(i, "copy_lines") for i in range(3)] + [
        (i, "expert") for i in range(3, 6)
    ]
    assert lines[2]["nll"] < lines[0]["nll"] and lines[-1]["nll"] < lines[0]["nll"]
    assert all(line["examples"] == 8 and line["too_long"] == 0 and line["tokens"] > 400 for line in lines)


def test_sft_evaluates_held_out_episodes_as_training_does(run):
    workdir, _ = run
    lines = read_lines(workdir / "evaluations.jsonl")
    assert [(line["step"], line["policy"]) for line in lines] == [
        (step, policy) for step in (0, 4, 6) for policy in ("T=1", "greedy")
    ]
    assert {"accuracy", "valid_operations", "exact_copy", "memory_tokens", "nll"} <= lines[0].keys()
    assert lines[0]["nll"] == lines[1]["nll"] > lines[-1]["nll"] > 0
    results = json.loads((workdir / "results.json").read_text())
    assert results["after greedy"]["nll"] == pytest.approx(lines[-1]["nll"])
    assert len(read_lines(workdir / "heldout" / "after greedy.jsonl")) == 2


@pytest.mark.parametrize("step", [2, 3, 5], ids=["in the first stage", "between two stages", "in the second stage"])
def test_a_warm_start_that_resumes_is_the_one_that_never_stopped(cfg, run, tmp_path, capfd, step):
    workdir, _ = run
    resumed = tmp_path / "resumed"
    shutil.copytree(workdir, resumed)
    for newer in range(step + 1, 7):
        shutil.rmtree(resumed / "checkpoints" / str(newer))
    shutil.rmtree(resumed / "hf")
    with (resumed / "sft_metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "half a li')
    sft.sft(cfg, resumed)
    assert f"resumed at step {step}" in capfd.readouterr().err
    for name in BY_SEED:
        assert (resumed / name).read_bytes() == (workdir / name).read_bytes(), name
    note = "checkpoints/6/extra/metadata"  # checksums of all parameters and of the optimizer's state
    assert (resumed / note).read_bytes() == (workdir / note).read_bytes()


def sft_command(workdir, *options):
    return main.main(["sft", "--config=configs/warm_start.py", f"--workdir={workdir}", *TINY, *options])


def test_two_warm_starts_in_one_folder_are_refused(tmp_path, capfd):
    with workdirs.locked(tmp_path):
        assert sft_command(tmp_path) == exits.USER_ERROR
    error = capfd.readouterr().err
    assert "is in use by another run" in error and len(error.splitlines()) == 1


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_was(cfg, run, tmp_path, capfd):
    """A run of training with the same config, a folder of somebody's, a warm start with another config; and training
    in a warm start's folder."""
    trained = tmp_path / "trained"
    (trained / "hf").mkdir(parents=True)
    (trained / "hf" / "config.json").write_text("{}")
    workdirs.store_config(cfg, trained)
    assert sft_command(trained) == exits.USER_ERROR
    assert "holds a run of `finemem train`: choose another --workdir" in capfd.readouterr().err
    assert [path.name for path in (trained / "hf").iterdir()] == ["config.json"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert sft_command(tmp_path / "mine") == exits.USER_ERROR
    assert "holds something else (thesis.tex): choose another --workdir" in capfd.readouterr().err

    before = (run[0] / "hf" / "model.safetensors").read_bytes()
    assert sft_command(run[0], "--config.sft.batch=9") == exits.USER_ERROR
    assert "config.sft.batch: 8 -> 9" in capfd.readouterr().err
    assert main.main(["train", "--config=configs/warm_start.py", f"--workdir={run[0]}", *TINY]) == exits.USER_ERROR
    assert "holds a run of `finemem sft`" in capfd.readouterr().err
    assert (run[0] / "hf" / "model.safetensors").read_bytes() == before
