"""Averages by what they are a mean of."""

import dataclasses

import pytest

from finemem_jax.config import Config
from finemem_jax.measures import averages
from finemem_jax.types import Answer, Question
from tests import fakes


def rollout(source, scores):
    answers = [Answer(Question("q", ("a",)), (), "", score) for score in scores]
    found = fakes.rollout([["a is b"]], answers=answers)
    return dataclasses.replace(found, episode=dataclasses.replace(found.episode, source=source))


def test_an_average_says_what_it_is_a_mean_of():
    """One source with an episode of four questions and one of two, another with one question: the three definitions
    give three numbers. A question without an answer is in none."""
    played = [rollout("a", [1, 1, 0, 0]), rollout("a", [1, 1, None]), rollout("b", [0.0])]
    found = averages.metrics([averages.record(r, True) for r in played], Config())
    assert found == pytest.approx({"average/sources": 0.375, "average/episodes": 0.5, "average/questions": 4 / 7})
