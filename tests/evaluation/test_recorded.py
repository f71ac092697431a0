"""Which groups of a step are recorded, their prompts, and the bound of what is recorded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax.config import Config
from finemem_jax.env.turns import Turns
from finemem_jax.evaluation.recorded import recorded_groups
from finemem_jax.evaluation.records import prompts_of, sample_record
from finemem_jax.files import JsonLines, read_lines
from tests import fakes


def logging(rule, count=1):
    cfg = Config()
    return dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, log_rule=rule, log_rollouts=count))


def table(rewards):
    """rewards: [groups, samples, steps] of the format term."""
    rewards = np.array(rewards, float)
    group, sample, index = (part.reshape(-1) for part in np.indices(rewards.shape))
    speaks = {"format": np.ones(rewards.size, bool)}
    return Turns(group, sample, index, np.zeros(rewards.size, int), {"format": rewards.reshape(-1)}, speaks)


def test_the_most_instructive_group_is_that_whose_samples_differ_most_at_one_step():
    nan = float("nan")
    turns = table([[[0, 5], [0, 5]], [[0.1, 1], [0.9, 1]], [[0.5, 0], [0.5, 0.3]], [[nan, 0], [9, 0.1]]])
    assert recorded_groups(logging("instructive"), 0, turns) == [1]
    assert recorded_groups(logging("instructive", 2), 0, turns) == [1, 2]
    assert recorded_groups(logging("first", 2), 0, turns) == [0, 1]
    assert recorded_groups(logging("instructive", 0), 0, turns) == []
    assert recorded_groups(logging("first", 9), 0, turns) == [0, 1, 2, 3]


def test_random_groups_are_a_function_of_seed_and_step():
    turns = table(np.zeros((8, 2, 1)))
    drawn = [recorded_groups(logging("random", 2), step, turns) for step in range(20)]
    assert drawn == [recorded_groups(logging("random", 2), step, turns) for step in range(20)]
    assert len({tuple(groups) for groups in drawn}) > 5 and all(len(set(groups)) == 2 for groups in drawn)


@pytest.mark.parametrize("gap", [None, 1])
def test_prompts_are_recorded_as_what_differs_from_the_one_before(gap):
    texts = [
        "instructions\n#1 a fact\nchunk 0",
        "instructions\n#1 a fact\n#2 𝔉𝔞𝔠𝔱\nchunk 1",
        "instructions\n#2 𝔉\nchunk 2",
    ]
    if gap is not None:
        texts[gap] = ""  # a turn without a prompt
    rollout = fakes.rollout([["a"], ["b"], ["c"]])
    record = sample_record(rollout, texts)
    found, last = [], ""
    for step in record["steps"]:
        same, rest = step.get("prompt", (0, ""))
        last = last[:same] + rest if rest else last
        found.append(last if rest else "")
    assert found == texts
    assert "prompt" not in sample_record(rollout)["steps"][0]


def test_scripts_have_no_prompts():
    rollout = fakes.rollout([["a"]])
    (step,) = rollout.steps
    with_prompt = dataclasses.replace(rollout, steps=(dataclasses.replace(step, prompt_tokens=(65, 66)),))
    without = dataclasses.replace(rollout, steps=(dataclasses.replace(step, prompt_tokens=()),))
    decode = lambda tokens: bytes(tokens).decode()  # noqa: E731
    assert prompts_of(with_prompt, decode) == ["AB"] and prompts_of(without, decode) == [""]


def test_a_log_with_a_bound_leaves_out_what_would_pass_it(tmp_path):
    log = JsonLines(tmp_path / "rollouts.jsonl", keep_below=0)
    for step in range(4):
        log.write(step, {"text": "x" * 100}, most=130 * (step + 1) if step < 3 else 130)
    assert [line["step"] for line in read_lines(log.path)] == [0, 1, 2]
    assert log.path.stat().st_size <= 3 * 130
