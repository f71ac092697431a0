"""Credit rules against plain loops, on samples with turns of several roles and lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.config import AdvantageConfig
from finemem_jax.env.credit import centred, group_advantages
from finemem_jax.env.turns import Turns, advantages

shapes = st.lists(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=4), min_size=1, max_size=3
)


def table(shape, values):
    """shape: for every group, for every sample, its writing and answering turns."""
    lines = [
        (g, s, i, int(i >= writes))
        for g, group in enumerate(shape)
        for s, (writes, answers) in enumerate(group)
        for i in range(writes + answers)
    ]
    columns = np.array(lines).T
    term = np.array([values[n % len(values)] for n in range(len(lines))])
    return Turns(*columns, {"x": term}, {"x": np.ones(len(lines), bool)})


def slow(values, keys, eps=1e-6, min_std=0.01):
    found = []
    for value, key in zip(values, keys, strict=True):
        own = [v for v, k in zip(values, keys, strict=True) if k == key]
        mean = sum(own) / len(own)
        deviation = (sum((v - mean) ** 2 for v in own) / max(len(own) - 1, 1)) ** 0.5
        found.append((value - mean) / (max(deviation, min_std) + eps) if max(own) > min(own) else 0.0)
    return found


@given(shapes, st.lists(st.floats(-2, 2), min_size=1, max_size=7), st.sampled_from(["step", "instance", "trajectory"]))
def test_rules_equal_plain_loops(shape, values, rule):
    turns = table(shape, values)
    lines = list(zip(turns.group, turns.sample, turns.index, turns.role, turns.terms["x"], strict=True))
    if rule == "trajectory":
        samples = {(g, s): [v for h, t, _, _, v in lines if (h, t) == (g, s)] for g, s, *_ in lines}
        earned = slow([np.mean(of) for of in samples.values()], [g for g, _ in samples])
        by_sample = dict(zip(samples, earned, strict=True))
        expected = [by_sample[g, s] for g, s, *_ in lines]
    else:
        keys = [(g, r, i if rule == "step" else 0) for g, _, i, r, _ in lines]
        expected = slow(turns.terms["x"], keys)
    found = advantages(turns, {"x": 1.0}, AdvantageConfig(credit=rule))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_columns_are_a_case_of_keys():
    rewards = np.random.default_rng(0).normal(size=(3, 4, 2))
    rewards[1, 2, 1] = np.nan
    keys = [(g, t) for g in range(3) for _ in range(4) for t in range(2)]
    np.testing.assert_array_equal(centred(rewards.ravel(), keys), group_advantages(rewards).ravel())


def test_keys_and_values_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="2 values, but 3 keys"):
        centred(np.zeros(2), [(0,), (0,), (1,)])
