"""What a step says of its rollouts."""

from __future__ import annotations

import dataclasses

import pytest

from finemem_jax.rollouts.metrics import rollout_metrics
from finemem_jax.types import Answer
from tests import fakes


def group(number, *scores, questions=3):
    """A sample for each score, which all of its answers have."""
    asked = [(f"q{i}", "a") for i in range(questions)]
    samples = [fakes.rollout([["a"]], questions=asked, sample=i) for i in range(len(scores))]
    return [
        dataclasses.replace(
            sample,
            group=number,
            answers=tuple(Answer(question, (), "a", score) for question in sample.episode.questions),
        )
        for sample, score in zip(samples, scores, strict=True)
    ]


def test_the_accuracy_of_a_step_has_an_interval_over_its_episodes():
    """Of two episodes one is drawn twice in half of the drawings: the interval goes from one to the other. Over the
    samples, which answer the same questions, it would be narrower."""
    line = rollout_metrics([*group(0, *[0.2] * 8), *group(1, *[0.6] * 8, questions=6)])
    assert line["accuracy"] == pytest.approx((0.2 * 3 + 0.6 * 6) / 9)  # over questions, as before
    assert (line["accuracy_low"], line["accuracy_high"]) == pytest.approx((0.2, 0.6))
    alone = rollout_metrics(group(0, 0.2, 0.6))
    assert alone["accuracy"] == pytest.approx(0.4) and "accuracy_low" not in alone
