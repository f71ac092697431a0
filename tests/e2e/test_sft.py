"""The warm start at a small size: what it trains, writes and evaluates."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from finemem_jax import main, sft
from finemem_jax.files import read_lines
from finemem_jax.weights import hf

TINY = (
    "--config.sft.stages=('copy_lines', 'expert')",
    "--config.sft.steps=(3, 3)",
    "--config.sft.lr=(1e-3, 1e-3)",
    "--config.sft.batch=8",
    "--config.sft.save_dtype=bfloat16",
    "--config.sft.pool=16",
    "--config.sft.eval_every=4",
    "--config.sft.eval_examples=8",
    "--config.eval.episodes=2",
    "--config.engine.slots=8",
    "--config.mesh.data=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished warm start: its workdir and what it returned."""
    workdir = tmp_path_factory.mktemp("sft")
    return workdir, sft.sft(main.load_config("configs/warm_start.py", TINY), workdir)


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
    lines = read_lines(run[0] / "evaluations.jsonl")
    assert [(line["step"], line["policy"]) for line in lines] == [
        (step, policy) for step in (0, 4, 6) for policy in ("T=1", "greedy")
    ]
    assert {"accuracy", "valid_operations", "exact_copy", "memory_tokens", "nll"} <= lines[0].keys()
    assert lines[0]["nll"] == lines[1]["nll"] > lines[-1]["nll"] > 0
