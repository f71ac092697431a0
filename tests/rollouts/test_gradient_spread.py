"""The spread of the gradient over batches."""

from __future__ import annotations

import numpy as np
import pytest

from finemem_jax.bench.gradient import gradients, spread
from finemem_jax.files import read_lines
from finemem_jax.main import main
from finemem_jax.schema.config_files import load_config


def test_mean_and_covariance_are_estimated_without_bias():
    """Over many draws of three batches the estimates average to what the batches were drawn from."""
    rng = np.random.default_rng(0)
    mean = np.array([1.0, -2.0, 0.0, 0.5])
    deviations = np.array([0.5, 1.0, 2.0, 0.1])
    found = [spread(mean + deviations * rng.normal(size=(3, 4))) for _ in range(4000)]
    assert np.mean([draw["deviation"] ** 2 for draw in found]) == pytest.approx(np.sum(deviations**2), rel=0.03)
    agreed = np.mean([draw["mean_norm"] ** 2 for draw in found if draw["noise_scale"] is not None])
    assert agreed >= mean @ mean  # of those that agree at all
    two = spread([3 * mean - deviations, 3 * mean + deviations])
    assert two["deviation"] ** 2 == pytest.approx(2 * np.sum(deviations**2))
    assert two["mean_norm"] ** 2 == pytest.approx(9 * mean @ mean - deviations @ deviations)


def test_batches_that_do_not_agree_have_no_noise_scale():
    opposite = spread([np.array([1.0, 0.0]), np.array([-1.0, 0.0])])
    assert opposite["noise_scale"] is None and opposite["mean_norm"] == 0.0
    alike = spread([np.array([3.0, 4.0])] * 2)
    assert (alike["noise_scale"], alike["mean_norm"], alike["deviation"]) == (0.0, 5.0, 0.0)


def test_one_batch_is_refused(capsys):
    assert main(["bench", "gradient", "--batches=1"]) == 2
    assert (
        capsys.readouterr().err == "finemem bench: --batches=1: at least 2, of one nothing is known about the spread\n"
    )


@pytest.mark.slow
def test_a_batch_has_the_gradient_of_the_run_s_first_step(tmp_path):
    """`spread` is in the ordinary suite. A run whose learning rate is 0 has the policy of its beginning at every step,
    and logs the norms of the gradients that the two batches have."""
    small = [
        "train.episodes=2",
        "train.mini_batches=1",
        "train.group_size=4",
        "loss.kl_coef=0.0",
        "optimizer.lr=0.0",
        "mesh.data=1",
    ]
    steps = ["train.steps=2", "train.eval_every=0", "eval.episodes=2", "eval.baselines=()"]
    command = ["train", "--config=configs/quickstart.py", f"--workdir={tmp_path}"]
    assert main([*command, *(f"--config.{field}" for field in (*small, *steps))]) == 0
    cfg = load_config("configs/quickstart.py", [f"--config.{field}" for field in small])
    norms = [np.linalg.norm(gradient) for gradient in gradients(cfg, tmp_path / "bench", 2)]
    assert norms == pytest.approx([line["loss/grad_norm"] for line in read_lines(tmp_path / "metrics.jsonl")], rel=1e-3)
