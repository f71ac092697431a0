"""What a plan says of the answerer, against what a rollout really asks."""

from __future__ import annotations

import re

import pytest

from finemem_jax.config import Config, EvidenceConfig, RetrievalConfig, RewardsConfig
from finemem_jax.env.attribution import subsets
from finemem_jax.plan.answers import asked_line


def said(k=3, **rewards):
    cfg = Config(rewards=RewardsConfig(**rewards), retrieval=RetrievalConfig(k=k))
    chunk, _, final = map(int, re.findall(r"\d+", asked_line(cfg, 10).partition("(")[0]))
    return chunk, final


def test_the_defaults_ask_every_question_once():
    assert said() == (50, 1)
    assert said(weights={"evidence": 1.0}) == (0, 1)


def test_gain_asks_chunk_questions_twice_and_final_ones_after_every_step():
    assert said(weights={"gain": 1.0}) == (100, 10)
    assert said(weights={"gain": 1.0}, settings={"gain": {"over": "final"}}) == (0, 10)


@pytest.mark.parametrize("rule", ["leave_one_out", "shapley"])
@pytest.mark.parametrize("k", [1, 4])
def test_attribution_asks_what_it_needs(rule, k):
    _, final = said(k, evidence=EvidenceConfig(attribution=rule))
    assert final == 1 + len(subsets(rule, k, 8, "q"))


def test_drawn_orders_ask_no_more_than_is_said():
    _, final = said(7, evidence=EvidenceConfig(attribution="shapley", permutations=3))
    assert 1 + len(subsets("shapley", 7, 3, "q")) <= final < 2**7
