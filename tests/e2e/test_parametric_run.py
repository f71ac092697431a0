"""Training with memory in fast weights, small: what is written inside the episodes, and what is logged of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from finemem_jax import main, train
from finemem_jax.files import read_lines

OVERRIDES = (
    "--config.train.steps=2",
    "--config.train.episodes=1",
    "--config.train.group_size=3",
    "--config.train.checkpoint_every=1",
    "--config.train.eval_every=0",
    "--config.eval.episodes=2",
    "--config.eval.temperatures=(0.0,)",
    "--config.loss.kl_coef=0.01",
    "--config.engine.slots=4",
    "--config.mesh.data=1",
    "--config.data.diary.chunks=3",
    "--config.method.fast.supervision=text",  # writes, whatever the policy says
    "--config.memory.name=flat",  # beside it, so that the warm start earns something
    "--config.method.fast.probes=1",
    "--config.profile.steps=0",
)


def test_a_run_writes_into_fast_weights_trains_under_them_and_goes_on_as_if_it_had_never_stopped(tmp_path):
    cfg = main.load_config("configs/tmem_small.py", OVERRIDES)
    results = train.train(cfg, tmp_path / "whole")
    lines = read_lines(tmp_path / "whole" / "metrics.jsonl")
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for line in lines:
        assert line["fast/writes"] == 2 and line["fast/loss_after"] < line["fast/loss_before"]
        assert {"fast/texts", "fast/recall_before", "fast/recall_after"} <= line.keys()
        assert {name for name in line if name.startswith("fast/")} <= set(re.findall(r"`([^`]+)`", documented))
        # Sampled under fast weights, several in one batch; the trainer's log-probabilities are under the same ones.
        assert line["loss/first_log_ratio_abs_max"] < 1e-4
        assert line["loss/grad_norm"] > 0 and np.isfinite(line["loss/ref_kl"])
    samples = [s for record in read_lines(tmp_path / "whole" / "rollouts.jsonl") for s in record["samples"]]
    assert [[write["chunks"] for write in sample["writes"]] for sample in samples] == [[[0, 1], [2]]] * 6
    assert all(len(write["recalls"]) == 1 for sample in samples for write in sample["writes"])
    assert "after greedy" in results and (tmp_path / "whole" / "report.html").exists()
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "2")  # as if it had been killed after that of step 1
    train.train(cfg, tmp_path / "resumed")
    for name in ("metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl", "hf/model.safetensors"):
        whole, resumed = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "resumed"))
        assert whole == resumed, name
