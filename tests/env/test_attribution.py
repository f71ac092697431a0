"""Credit of retrieved items against the definitions, and that it conserves the score."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.env.attribution import full, item_credit, orders, subsets

RULES = ("leave_one_out", "shapley")


def slow_shapley(items, scores):
    """The mean over all orders of what an item adds to those before it."""
    credit = [0.0] * items
    for order in itertools.permutations(range(items)):
        before = frozenset()
        for item in order:
            credit[item] += scores[before | {item}] - scores[before]
            before |= {item}
    return [value / math.factorial(items) for value in credit]


def as_bits(chosen):
    return sum(1 << i for i in chosen)


tables = st.integers(1, 4).flatmap(
    lambda items: st.tuples(
        st.just(items), st.lists(st.floats(0, 1), min_size=2**items, max_size=2**items), st.sampled_from(RULES)
    )
)


@given(tables)
def test_shapley_equals_the_mean_over_all_orders(case):
    items, values, _ = case
    by_set = {
        frozenset(c): values[as_bits(c)] for n in range(items + 1) for c in itertools.combinations(range(items), n)
    }
    found = item_credit("shapley", items, dict(enumerate(values)), 8, "q")
    assert found == pytest.approx(slow_shapley(items, by_set), abs=1e-9)


@given(tables)
def test_what_is_paid_and_what_is_left_is_the_score(case):
    """shapley leaves what is known without any item; leave_one_out all of it or nothing."""
    items, values, rule = case
    asked = {bits: values[bits] for bits in (*subsets(rule, items, 8, "q"), full(items))}
    paid = sum(item_credit(rule, items, asked, 8, "q"))
    if rule == "shapley":
        assert paid == pytest.approx(asked[full(items)] - asked[0], abs=1e-9)
    else:
        assert paid == pytest.approx(asked[full(items)]) or paid == 0


@given(st.integers(5, 7), st.integers(1, 6), st.text(max_size=3), st.randoms(use_true_random=False))
def test_drawn_orders_need_few_sets_and_conserve_too(items, permutations, seed, rng):
    needed = subsets("shapley", items, permutations, seed)
    assert 0 in needed and full(items) not in needed and len(needed) <= 1 + permutations * (items - 1)
    scores = {bits: rng.random() for bits in (*needed, full(items))}
    paid = item_credit("shapley", items, scores, permutations, seed)
    assert sum(paid) == pytest.approx(scores[full(items)] - scores[0])
    assert orders(items, permutations, seed) == orders(items, permutations, seed)


def test_of_two_items_that_say_the_same_shapley_pays_both_and_leave_one_out_none():
    """Items 0 and 1 say it, item 2 was retrieved beside them."""
    scores = {bits: float(bool(bits & 0b011)) for bits in range(8)}
    assert item_credit("shapley", 3, scores, 8, "q") == pytest.approx([0.5, 0.5, 0.0])
    assert item_credit("leave_one_out", 3, scores, 8, "q") == [0.0, 0.0, 0.0]
    scores = {bits: float(bool(bits & 0b001)) for bits in range(8)}
    assert item_credit("leave_one_out", 3, scores, 8, "q") == [1.0, 0.0, 0.0]


def test_an_item_that_misleads_is_paid_less_than_nothing():
    scores = {0: 0.0, 0b01: 1.0, 0b10: 0.0, 0b11: 0.0}  # the second item hides the first
    assert item_credit("shapley", 2, scores, 8, "q") == pytest.approx([0.5, -0.5])


def test_leave_one_out_takes_nothing_from_an_item_that_misleads():
    scores = {0b01: 1.0, 0b10: 0.0, 0b11: 0.5}  # without the second item the answer is better
    assert item_credit("leave_one_out", 2, scores, 8, "q") == [0.5, 0.0]


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(ValueError, match="leave_one_out, shapley"):
        subsets("banzhaf", 2, 8, "q")
