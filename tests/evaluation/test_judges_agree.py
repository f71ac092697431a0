"""Cohen's kappa against its formula, and by hand."""

from __future__ import annotations

import random

import pytest

from finemem_jax.evaluation.agreement import agreements, cohens_kappa


def slow_kappa(pairs):
    labels, n = sorted({label for pair in pairs for label in pair}), len(pairs)
    table = [[sum(1 for pair in pairs if pair == (a, b)) / n for b in labels] for a in labels]
    observed = sum(table[i][i] for i in range(len(labels)))
    expected = sum(sum(table[i]) * sum(row[i] for row in table) for i in range(len(labels)))
    return (observed - expected) / (1 - expected)


def test_kappa_is_its_formula():
    rng = random.Random(0)
    for _ in range(50):
        pairs = [(rng.choice("abc"), rng.choice("abc")) for _ in range(rng.randrange(4, 40))]
        if len({a for a, _ in pairs}) > 1:
            assert cohens_kappa(pairs) == pytest.approx(slow_kappa(pairs), abs=1e-12)
    # 20 + 15 alike of 50; the first says yes 25 times, the second 30: (0.7 - 0.5) / 0.5
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([("y", "y")] * 9) is None and cohens_kappa([]) is None


def test_only_answers_with_both_verdicts_count():
    def judged(**scores):
        return {"judges": {name: {"score": score, "label": ""} for name, score in scores.items()}}

    questions = [judged(a=1.0, b=1.0), judged(a=1.0, b=0.0), judged(a=0.5, b=1.0), judged(a=None, b=1.0), {}]
    (found,) = agreements(questions).items()
    assert found[0] == ("a", "b") and found[1].answers == 3
    assert (found[1].raw, found[1].first, found[1].second) == pytest.approx((2 / 3, 1.0, 2 / 3))
    assert found[1].kappa == pytest.approx(0.0)
    assert agreements([{}, {"judges": {"a": {"score": 1.0}}}]) == {}
