"""Expert iteration: a policy imitates its own best rollouts and writes better memory on episodes it has not seen."""

from __future__ import annotations

import pytest

from finemem_jax import exits, main
from finemem_jax.files import read_lines

SMALL = ("--config=configs/quickstart.py", "--config.mesh.data=1")


@pytest.mark.slow
def test_a_policy_that_imitates_its_own_best_rollouts_is_not_worse_on_held_out_episodes(tmp_path):
    collect = ("--episodes=48", "--samples=8", f"--workdir={tmp_path / 'collected'}")
    assert main.main(["collect-traces", *SMALL, *collect]) == exits.DONE
    imitate = (
        f"--config.sft.traces={tmp_path / 'collected' / 'traces.jsonl'}",
        "--config.sft.stages=('traces',)",
        "--config.sft.steps=(40,)",
        "--config.sft.lr=(5e-4,)",
        "--config.sft.batch=16",
        "--config.sft.eval_every=40",
        "--config.sft.eval_examples=0",
        "--config.eval.episodes=48",
        "--config.eval.temperatures=(1.0,)",
    )
    assert main.main(["sft", *SMALL, *imitate, f"--workdir={tmp_path / 'sft'}"]) == exits.DONE
    before, after = read_lines(tmp_path / "sft" / "evaluations.jsonl")
    assert (before["step"], after["step"]) == (0, 40)
    assert after["accuracy"] >= before["accuracy"]
    assert after["valid_operations"] >= before["valid_operations"] - 0.02
    lines = read_lines(tmp_path / "sft" / "sft_metrics.jsonl")
    assert {line["stage"] for line in lines} == {"traces"} and lines[-1]["nll"] < lines[0]["nll"]
