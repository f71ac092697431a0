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


def slow_state(lines, weights, ends):
    """Lines of (group, role, index, state, is_trunk, terms): the rule of credit/state.py in plain loops, std none."""
    at_turn = [sum(weights[k] * v for k, v in terms.items() if state < 0 or k not in ends)
               for *_, state, _, terms in lines]  # fmt: skip
    at_end = [sum(weights[k] * terms[k] for k in ends) for *_, terms in lines]
    found = []
    for number, (group, role, index, state, is_trunk, _) in enumerate(lines):
        same = [n for n, line in enumerate(lines) if line[:4] == (group, role, index, state)]
        value = at_turn[number] - sum(at_turn[n] for n in same) / len(same)
        if is_trunk:
            trunks = [n for n, line in enumerate(lines) if line[4] and line[1:3] == (role, index)]
            value += len(same) * (at_end[number] - sum(at_end[n] for n in trunks) / len(trunks))
        found.append(value)
    return found


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.randoms(use_true_random=False))
def test_the_state_rule_equals_plain_loops(groups, samples, steps, extras, rng):
    """Trunks, and an ordinary group with local completions beside it."""
    rows = [
        (g, s, t, 0, g * steps + t, s == 0, s > 0) for g in range(groups) for s in range(samples) for t in range(steps)
    ]
    rows += [(groups, s, t, 0, -1, False, False) for s in range(samples) for t in range(steps)]
    rows += [(groups, samples + j, 0, 0, groups * steps, False, True) for j in range(extras)]
    group, sample, index, role, state, is_trunk, is_branch = (np.array(column) for column in zip(*rows, strict=True))
    at_turn = np.array([rng.choice([0.0, 0.5, 1.0]) for _ in rows])
    at_end = np.where(is_branch, 0.0, [rng.choice([0.0, 0.3, 1.0]) for _ in rows])
    turns = Turns(
        group, sample, index, role, {"x": at_turn, "end": at_end},
        {"x": np.ones(len(rows), bool), "end": ~is_branch}, state, frozenset({"end"}),
    )  # fmt: skip
    weights = {"x": 0.7, "end": 2.0}
    lines = [
        (int(g), 0, int(t), int(st_), bool(tr), {"x": x, "end": e})
        for g, t, st_, tr, x, e in zip(group, index, state, is_trunk, at_turn, at_end, strict=True)
    ]
    found = advantages(turns, weights, AdvantageConfig(credit="state", std="none"))
    np.testing.assert_allclose(found, slow_state(lines, weights, {"end"}), atol=1e-9)


def test_the_state_rule_is_the_step_rule_where_no_memory_is_shared():
    turns = table([[(2, 1), (3, 0)], [(1, 2)]], [0.3, 1.0, -0.5])
    by_rule = [advantages(turns, {"x": 1.0}, AdvantageConfig(credit=rule)) for rule in ("step", "state")]
    np.testing.assert_array_equal(*by_rule)
