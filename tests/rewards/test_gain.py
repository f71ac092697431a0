"""Memory gain and causal evidence, through the real environment and answerer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finemem_jax import config
from finemem_jax.config import AnswererConfig, Config, EvidenceConfig, MethodConfig, RewardsConfig, UserError, resolve
from finemem_jax.env.environment import replay, training_questions
from finemem_jax.env.probing import check_probing, wanted
from finemem_jax.env.turns import tabulate
from finemem_jax.rewards import evidence, gain
from finemem_jax.rollouts.metrics import asked_metrics
from finemem_jax.types import Chunk, Episode, Operation, Question
from tests import fakes

FACTS = ("red Maya sofa", "Orlov Leo dentist", "Lisbon Ida office", "blue Maya tent")


def question(fact):
    value, name, what = fact.split()
    return Question(f"what is {name}'s {what}?", (value,), "exact_match")


EPISODE = Episode(
    "e", "fake", tuple(Chunk(fact, i, (question(fact),)) for i, fact in enumerate(FACTS)), tuple(map(question, FACTS))
)
ASKED = {"question_share": 1.0}

# What each turn writes: facts of any chunk, and a deletion of the oldest item or none.
writings = st.lists(
    st.tuples(st.lists(st.sampled_from([*FACTS, "nothing at all", "what is s"]), max_size=2), st.booleans()),
    min_size=len(FACTS),
    max_size=len(FACTS),
)


def played(env, cfg, script, answerer=None):
    def write(episode, turn):
        texts, deletes = script[turn.index]
        gone = [Operation("memory_delete", {"id": item.id}) for item in turn.memory.items[:1] if deletes]
        return [*gone, *(Operation("memory_insert", {"content": text}) for text in texts)]

    asked = training_questions(EPISODE, cfg, asks_chunks=True, seed="x")
    answerer = answerer or resolve("finemem_jax.answerers", "extractive").create(AnswererConfig())
    return replay(env, EPISODE, asked, answerer.submit, write)()


def rewards(over="final", **more):
    return RewardsConfig(weights={"gain": 1.0}, settings={"gain": {"over": over}}, **ASKED, **more)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(script=writings)
def test_the_final_questions_gains_sum_to_the_final_score(script, env):
    rollout = played(env, rewards(), script)
    score = np.mean([answer.score for answer in rollout.final_answers])
    found = gain.turn_rewards(rollout, rewards(), env.count_tokens)
    assert found.shape == (len(FACTS),) and found.sum() == pytest.approx(score)


def test_a_step_is_paid_for_what_it_adds_and_charged_for_what_it_loses(env):
    script = [([FACTS[0]], False), ([FACTS[1], FACTS[2]], False), ([], True), ([FACTS[3]], False)]
    rollout = played(env, rewards("both"), script)
    np.testing.assert_allclose(gain.final_gain(rollout), [1 / 4, 2 / 4, -1 / 4, 1 / 4])
    # chunk 2's question could be answered before its turn: the chunk reward pays for that, the gain does not
    np.testing.assert_allclose(gain.chunk_gain(rollout), [1, 1, 0, 1])
    chunk_qa = resolve("finemem_jax.rewards", "chunk_qa")
    np.testing.assert_allclose(chunk_qa.turn_rewards(rollout, rewards(), env.count_tokens), [1, 1, 1, 1])
    both = gain.turn_rewards(rollout, rewards("both"), env.count_tokens)
    np.testing.assert_allclose(both, [1.25, 1.5, -0.25, 1.25])


def test_only_what_is_read_is_asked(env):
    script = [([fact], False) for fact in FACTS]
    assert len(played(env, rewards("final"), script).probes) == 3 * 4
    assert len(played(env, rewards("chunk"), script).probes) == 3
    plain = played(env, RewardsConfig(**ASKED), script)
    assert not plain.probes and not any(answer.subsets for answer in plain.answers)
    assert wanted(RewardsConfig(weights={"gain": 0.0})) == wanted(RewardsConfig())


def test_a_question_that_failed_on_the_way_is_left_out_for_the_whole_group(env):
    inner = resolve("finemem_jax.answerers", "extractive").create(AnswererConfig())
    lossy = fakes.LossyAnswerer(inner, lambda request: "sofa" in request.question and len(request.items) > 1)
    scripts = [[(["red Maya sofa", "old sofa"], False)] + [([fact], False) for fact in FACTS[1:]],
               [([fact], False) for fact in FACTS]]  # fmt: skip
    group = [played(env, rewards(), script, lossy) for script in scripts]
    turns = tabulate([group], rewards(), env.count_tokens)
    # three of four questions are left, and each sample gains them one by one
    np.testing.assert_allclose(turns.terms["gain"].reshape(2, 4), [[0, 1 / 3, 1 / 3, 1 / 3]] * 2)


@pytest.mark.parametrize("attribution", ["retrieved", "cited", "leave_one_out", "shapley"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(script=writings)
def test_every_attribution_conserves_the_score(attribution, script, env):
    cfg = RewardsConfig(weights={"evidence": 1.0}, evidence=EvidenceConfig(beta=1.0, attribution=attribution), **ASKED)
    rollout = played(env, cfg, script)
    score = np.mean([answer.score for answer in rollout.final_answers])
    assert evidence.turn_rewards(rollout, cfg, env.count_tokens).sum() == pytest.approx(score)


@pytest.mark.parametrize(
    ("attribution", "expected"),
    [
        ("retrieved", [1 / 2, 1 / 2, 0, 0]),  # a sofa is a sofa
        ("cited", [1, 0, 0, 0]),
        ("leave_one_out", [1, 0, 0, 0]),
        ("shapley", [1, 0, 0, 0]),
    ],
)
def test_an_item_that_was_only_retrieved_is_paid_by_the_papers_rule_alone(attribution, expected, env):
    cfg = RewardsConfig(weights={"evidence": 1.0}, evidence=EvidenceConfig(beta=1.0, attribution=attribution), **ASKED)
    script = [
        (["red Maya sofa"], False),
        (["an old sofa of somebody else stood there"], False),
        ([], False),
        ([], False),
    ]
    rollout = played(env, cfg, script)
    right = tuple(answer for answer in rollout.final_answers if answer.score)
    found = evidence.turn_rewards(dataclasses.replace(rollout, answers=right), cfg, env.count_tokens)
    np.testing.assert_allclose(found, expected)


def test_what_an_attribution_leaves_of_the_score_is_spread_over_the_steps(env):
    """Two items that say the same in other words: without either the answer is right, so leave-one-out pays neither."""
    script = [(["red Maya sofa"], False), (["Maya sofa red"], False), ([], False), ([], False)]
    found = {}
    for attribution in ("retrieved", "leave_one_out", "shapley"):
        settings = EvidenceConfig(beta=1.0, attribution=attribution)
        cfg = RewardsConfig(weights={"evidence": 1.0}, evidence=settings, **ASKED)
        rollout = played(env, cfg, script)
        right = tuple(answer for answer in rollout.final_answers if answer.score)
        rollout = dataclasses.replace(rollout, answers=right)
        found[attribution] = evidence.turn_rewards(rollout, cfg, env.count_tokens)
    np.testing.assert_allclose(found["retrieved"], [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(found["shapley"], [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(found["leave_one_out"], [0.25] * 4)


def test_what_cannot_be_asked_is_refused_before_the_run():
    cfg = Config(rewards=rewards(), method=MethodConfig(answers="policy"))
    with pytest.raises(UserError, match=r"config\.method\.answers=answerer"):
        check_probing(cfg)
    check_probing(Config(rewards=rewards()))
    with pytest.raises(UserError, match=r"gain.over='end'.*allowed are chunk, final, both"):
        config.validate(Config(rewards=RewardsConfig(settings={"gain": {"over": "end"}})))


def test_what_was_asked_is_counted_by_what_for(env):
    script = [([fact], False) for fact in FACTS]
    cfg = RewardsConfig(weights={"gain": 1.0, "evidence": 1.0}, evidence=EvidenceConfig(attribution="shapley"), **ASKED)
    rollout = played(env, cfg, script)
    retrieved = [len(answer.retrieved) for answer in rollout.final_answers]
    found = asked_metrics([rollout, rollout])
    assert found.pop("asked/distinct") == asked_metrics([rollout])["asked/distinct"] < sum(found.values()) / 2
    assert found == {
        "asked/chunk": 2 * 4,
        "asked/final": 2 * 4,
        "asked/gain": 2 * (3 + 3 * 4),
        "asked/attribution": 2 * sum(2**k - 1 for k in retrieved),
        "asked/uncited": 0,
    }
