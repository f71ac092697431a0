"""Memory-R1's three settings at a tiny size: a step of each updates what it should, from the command line."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.export import restore_params
from finemem_jax.loading import load_policy
from finemem_jax.nn import lora
from finemem_jax.run.workdir import stored_config
from tests.corpora.conftest import WRITERS

TINY = {
    "model.path": "",
    "model.preset": "tiny",
    "model.tokenizer": "tiny",
    "model.remat": "none",
    "model.dtype": "float32",
    "mesh.fsdp": 1,
    "engine.slots": 4,
    "engine.cache_tokens": 1536,
    "engine.page_tokens": 128,
    "prompt.max_prompt_tokens": 1504,
    "prompt.max_completion_tokens": 8,
    "method.answer_tokens": 8,
    "memory.view.max_items": 2,
    "retrieval.per_kind": 2,
    "train.steps": 1,
    "train.episodes": 2,
    "train.group_size": 2,
    "train.microbatch_rows": 4,
    "train.row_tokens": 1536,
    "train.eval_every": 0,
    "eval.episodes": 1,
    "eval.temperatures": "()",
    "eval.baselines": "()",
    "logging.tensorboard": False,
    "optimizer.lr": 1e-2,
}


def trained(name, tmp_path, **settings):
    WRITERS["locomo"](tmp_path)
    given = TINY | {"data.path": str(tmp_path)} | settings
    arguments = [f"--config.{key}={value}" for key, value in given.items()]
    run = tmp_path / "run"
    main.main(["train", f"--config=configs/neighbours/{name}.py", f"--workdir={run}", *arguments])
    (line,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (record,) = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    return run, line, record


@pytest.mark.parametrize(
    ("name", "settings", "term"),
    [
        ("memory_r1_answer", {}, "own_answer"),
        ("memory_r1_manager", {"answerer.name": "extractive", "answerer.prompt": ""}, "chunk_qa"),
    ],
)
def test_a_stage_takes_a_step(tmp_path, name, settings, term):
    run, line, _ = trained(name, tmp_path, **settings)
    assert f"reward/{term}" in line and line["missing_rewards"] == 0
    assert (run / "hf" / "config.json").is_file()


def test_both_at_once_move_an_adapter_each_and_are_exported_one_by_one(tmp_path):
    # A reward that differs by sample whatever a random policy says.
    weights = {"rewards.weights.compression": 1.0, "loss.kl_coef": 0.001}
    run, line, _ = trained("memory_r1_both", tmp_path, **weights)
    assert {"reward/evidence", "reward/own_answer"} <= line.keys()
    policy = load_policy(stored_config(run))
    _, after = restore_params(run, policy.params)
    assert lora.split_adapters(after)[1]["layers"]["attention"]["q_proj"]["lora"]["a"].shape[1] == 2
    for a, b in zip(*(jax.tree.leaves(lora.without_adapters(p)) for p in (policy.params, after)), strict=True):
        np.testing.assert_array_equal(a, b)  # the base is frozen
    assert all((run / "hf" / role / "config.json").is_file() for role in ("write", "answer"))
    assert stored_config(run).model.lora.roles == ("write", "answer")
