"""Group advantages against the formula written as plain loops, and its properties."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from finemem_jax.env.credit import group_advantages


def slow_advantages(rewards, std, eps, min_std):
    """(r - mean) / (max(stdev, min_std) + eps), group by group and step by step, on Python floats."""
    result = [[[math.nan] * len(sample) for sample in group] for group in rewards]
    for g, group in enumerate(rewards):
        for t in range(len(group[0])):
            column = [(s, float(sample[t])) for s, sample in enumerate(group) if not math.isnan(sample[t])]
            values = [value for _, value in column]
            for s, value in column:
                if len(set(values)) == 1:
                    result[g][s][t] = 0.0
                elif std == "none":
                    result[g][s][t] = value - statistics.fmean(values)
                else:
                    deviation = max(statistics.stdev(values), min_std)
                    result[g][s][t] = (value - statistics.fmean(values)) / (deviation + eps)
    return result


@pytest.mark.parametrize("std", ["sample", "none"])
@pytest.mark.parametrize("min_std", [0.0, 0.01, 0.5])
def test_advantages_equal_the_formula(std, min_std):
    rewards = np.random.default_rng(0).normal(size=(5, 8, 4))
    rewards[0, 3, 2:] = np.nan  # a rollout with fewer steps
    rewards[1, :, 1] = np.nan  # a step nobody has
    rewards[2, 1:, 0] = np.nan  # a group of one
    rewards[3, :, 3] = 0.7  # no spread
    expected = slow_advantages(rewards.tolist(), std, 1e-6, min_std)
    found = group_advantages(rewards, std=std, eps=1e-6, min_std=min_std)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(found[0, 0, 0]) > 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("samples", [1, 2, 3, 8])
def test_equal_rewards_give_exactly_zero(dtype, samples):
    rewards = np.full((1, samples, 1), 0.7, dtype)
    found = group_advantages(rewards)
    assert found.dtype == dtype
    assert (found == 0).all()


def test_naive_float32_would_not_give_zero():
    rewards = np.full((8,), 0.7, np.float32)
    mean = np.float32(0)
    for reward in rewards:
        mean = np.float32(mean + reward)
    assert mean / np.float32(8) != rewards[0]  # what the guard is for


def test_two_samples_by_hand():
    found = group_advantages(np.array([[[1.0], [0.0]]]), eps=0.0)
    np.testing.assert_allclose(found[0, :, 0], [math.sqrt(0.5), -math.sqrt(0.5)])


def test_small_spread_is_not_blown_up():
    rewards = np.array([[[0.500], [0.501]]])
    assert abs(group_advantages(rewards)[0, 1, 0]) > 0.7
    assert abs(group_advantages(rewards, min_std=0.01)[0, 1, 0]) < 0.06


def test_unknown_std_is_refused():
    with pytest.raises(ValueError, match=r"advantage\.std='batch'"):
        group_advantages(np.zeros((1, 2, 1)), std="batch")


rewards_strategy = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4)),
    elements=st.one_of(st.just(math.nan), st.floats(-10, 10)),
)


@given(rewards_strategy, st.sampled_from(["sample", "none"]), st.sampled_from([0.0, 0.01]))
def test_advantages_are_finite_centred_and_keep_the_order(rewards, std, min_std):
    found = group_advantages(rewards, std=std, min_std=min_std)
    missing = np.isnan(rewards)
    assert (np.isnan(found) == missing).all()
    assert np.isfinite(found[~missing]).all()
    np.testing.assert_allclose(np.where(missing, 0.0, found).sum(axis=1), 0.0, atol=1e-6)
    for group, advantages in zip(rewards, found, strict=True):
        for column, values in zip(group.T, advantages.T, strict=True):
            present = ~np.isnan(column)
            ranked = values[present][np.argsort(column[present], kind="stable")]
            assert (np.diff(ranked) >= 0).all()


@given(rewards_strategy, st.randoms(use_true_random=False))
def test_permuting_samples_permutes_advantages(rewards, random):
    order = list(range(rewards.shape[1]))
    random.shuffle(order)
    found = group_advantages(rewards, min_std=0.01)
    np.testing.assert_allclose(group_advantages(rewards[:, order], min_std=0.01), found[:, order], atol=1e-9)
