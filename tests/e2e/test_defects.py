"""A run that a plug-in's defect ends, hours after its start, has lost nothing."""

from __future__ import annotations

import sys

import pytest

import finemem_jax.rewards
from finemem_jax import exits, main, train
from finemem_jax.env.turns import TermFailed
from finemem_jax.files import read_lines

BREAKS = """
import pathlib
import numpy as np
ROLES, LEVEL = ("write",), "turn"

def turn_rewards(rollout, cfg, count_tokens):
    if rollout.episode.id != "rehearsal":
        left = pathlib.Path(__file__).with_name("calls")
        left.write_text(str(int(left.read_text()) - 1))
        if int(left.read_text()) < 0:
            return {}["no such key"]
    return np.zeros(len(rollout.of("write")))
"""
SMALL = (
    "--config=configs/quickstart.py",
    "--config.train.steps=3",
    "--config.train.episodes=1",
    "--config.train.group_size=2",
    "--config.train.mini_batches=1",
    "--config.train.eval_every=0",
    "--config.eval.episodes=1",
    "--config.eval.temperatures=(0.0,)",
    "--config.eval.baselines=()",
    "--config.engine.slots=4",
    "--config.mesh.data=1",
    "--config.data.diary.chunks=2",
    "--config.prompt.max_completion_tokens=32",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose files are reward terms, too."""
    monkeypatch.setattr(finemem_jax.rewards, "__path__", [*finemem_jax.rewards.__path__, str(tmp_path)])
    yield tmp_path
    for name in ("breaks", "misnamed"):
        sys.modules.pop(f"finemem_jax.rewards.{name}", None)


def test_a_reward_term_that_breaks_in_the_third_step_leaves_two_steps_saved(folder, capfd):
    (folder / "breaks.py").write_text(BREAKS)
    (folder / "calls").write_text("5")  # two a step
    command = ["train", *SMALL, "--config.rewards.weights.breaks=1", f"--workdir={folder / 'run'}"]
    with pytest.raises(TermFailed, match=r"rewards/breaks\.py: KeyError: 'no such key'"):
        main.main(command)
    assert "step 2: TermFailed; saved after step 2" in capfd.readouterr().err
    (folder / "calls").write_text("1000")
    assert main.main(command) == exits.DONE
    assert "resumed at step 2" in capfd.readouterr().err
    assert [line["step"] for line in read_lines(folder / "run" / "metrics.jsonl")] == [0, 1, 2]


def test_a_plug_in_that_cannot_work_is_refused_before_the_first_step(folder, capsys):
    (folder / "breaks.py").write_text(BREAKS.replace('"rehearsal"', '"other"'))
    (folder / "calls").write_text("0")
    (folder / "misnamed.py").write_text(BREAKS.replace("def turn_rewards", "def turn_reward"))
    for name, reason in (
        ("breaks", "rewards/breaks.py: KeyError: 'no such key', on a tiny rollout before the first step"),
        ("misnamed", "misnamed.py lacks turn_rewards() (it has turn_reward): every file in rewards/ has it"),
    ):
        weights = f"--config.rewards.weights.{name}=1"
        assert main.main(["train", *SMALL, weights, f"--workdir={folder / 'run'}"]) == exits.USER_ERROR
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("finemem train: ")]
        assert reason in line
    assert train.CHECKPOINTS not in [path.name for path in (folder / "run").iterdir()]
