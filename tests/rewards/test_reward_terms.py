"""Each reward term against its formula written out, and the properties the method rests on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax import config
from finemem_jax.config import AdvantageConfig, Config, EvidenceConfig, MemoryConfig, RewardsConfig, UserError
from finemem_jax.env import environment
from finemem_jax.env.credit import complete, group_advantages
from finemem_jax.env.turns import Turns, advantages, asks_chunk_questions, step_keys, tabulate, totals, variance_shares
from finemem_jax.rewards import chunk_qa, compression, evidence, format
from finemem_jax.rewards._balance import forgetting_pays
from finemem_jax.rollouts.metrics import reward_metrics
from finemem_jax.types import Answer, Operation, Question, Retrieved
from tests import fakes

QUESTION = Question("q", ("a",))


def answer(score, step=None, retrieved=()):
    items = tuple(Retrieved(f"#{i}", w if isinstance(w, int) else w[-1], (w,) if isinstance(w, int) else w, "t")
                  for i, w in enumerate(retrieved))  # fmt: skip
    return Answer(QUESTION, items, "", score, step)


def insert(text):
    return Operation("memory_insert", {"content": text})


def update(text):
    return Operation("memory_update", {"content": text, "id": "#1"})


def slow_evidence(scores, writers, steps, beta, unanchored):
    """(1 - β) r_global / T + β N_t, by the paper's sums."""
    n = len(scores)
    r_global = sum(scores) / n
    result = []
    for t in range(steps):
        N_t = 0.0
        for s_j, R_j in zip(scores, writers, strict=True):
            for phi in R_j:
                if phi == t:
                    N_t += s_j / (len(R_j) * n)
            if not R_j and unanchored == "uniform":
                N_t += s_j / n / steps
        result.append((1 - beta) * r_global / steps + beta * N_t)
    return result


cases = st.integers(1, 6).flatmap(
    lambda steps: st.tuples(
        st.just(steps),
        st.lists(
            st.tuples(st.floats(0, 1, allow_nan=False), st.lists(st.integers(0, steps - 1), max_size=5)),
            min_size=1,
            max_size=8,
        ),
        st.floats(0, 1),
    )
)


@given(cases, st.sampled_from(["uniform", "drop"]))
def test_evidence_equals_the_formula(case, unanchored):
    steps, questions, beta = case
    scores, writers = [s for s, _ in questions], [w for _, w in questions]
    got = evidence.evidence_rewards(scores, writers, steps, beta=beta, unanchored=unanchored)
    np.testing.assert_allclose(got, slow_evidence(scores, writers, steps, beta, unanchored), atol=1e-12)


@given(cases)
def test_evidence_is_conserved_even_where_nothing_was_retrieved(case):
    steps, questions, beta = case
    scores, writers = [s for s, _ in questions], [w for _, w in questions]
    got = evidence.evidence_rewards(scores, writers, steps, beta=beta)
    assert got.sum() == pytest.approx(np.mean(scores), abs=1e-9)


def test_dropped_credit_breaks_conservation_by_exactly_the_unanchored_share():
    got = evidence.evidence_rewards([1.0, 1.0], [[], [0]], 2, beta=0.5, unanchored="drop")
    assert got.sum() == pytest.approx(1.0 - 0.5 * 0.5)


def test_evidence_worked_example():
    got = evidence.evidence_rewards([1.0, 0.0], [[0, 0, 2], [1]], 3, beta=0.5)
    # r_global = 0.5; N = [2/6, 0, 1/6]
    np.testing.assert_allclose(got, [0.25 / 3 + 1 / 6, 0.25 / 3, 0.25 / 3 + 1 / 12])


def test_shared_update_credit_is_split_over_all_writers():
    rollout = fakes.rollout([["x"], ["y"]], answers=[answer(1.0, retrieved=[(0, 1)])])
    last = RewardsConfig(evidence=EvidenceConfig(beta=1.0))
    shared = RewardsConfig(evidence=EvidenceConfig(beta=1.0, update_credit="shared"))
    np.testing.assert_allclose(evidence.turn_rewards(rollout, last, fakes.count_words), [0.0, 1.0])
    np.testing.assert_allclose(evidence.turn_rewards(rollout, shared, fakes.count_words), [0.5, 0.5])


@pytest.mark.parametrize(
    "written",
    [
        [insert("the boat is RED.")],
        [update("The boat is red ")],
        [Operation("memory_delete", {"id": "#1"}), insert("the boat is red")],
        [update("something else"), update("the boat is red!")],
    ],
)
def test_a_step_that_writes_again_what_is_there_is_not_paid_for_it(written):
    first = fakes.rollout([["the boat is red"], []])
    memory = first.steps[1].memory_after
    for operation in written:
        memory, _ = memory.apply(operation, 1)
    (item,) = memory.items
    found = (Retrieved(item.id, item.written_at, item.writers, item.text),)
    played = dataclasses.replace(first, answers=(Answer(QUESTION, found, "red", 1.0),))
    for credit in ("last_write", "shared"):
        cfg = RewardsConfig(evidence=EvidenceConfig(beta=1.0, update_credit=credit))
        np.testing.assert_allclose(evidence.turn_rewards(played, cfg, fakes.count_words), [1.0, 0.0])


def test_a_failed_final_answer_is_left_out_and_evidence_is_missing_when_all_failed():
    cfg = RewardsConfig(evidence=EvidenceConfig(beta=0.0))
    rollout = fakes.rollout([["x"], ["y"]], answers=[answer(1.0), answer(None)])
    np.testing.assert_allclose(evidence.turn_rewards(rollout, cfg, fakes.count_words), [0.5, 0.5])
    rollout = fakes.rollout([["x"], ["y"]], answers=[answer(None), answer(None)])
    assert np.isnan(evidence.turn_rewards(rollout, cfg, fakes.count_words)).all()


def test_per_step_scale_makes_the_steps_sum_to_t_times_the_score():
    rollout = fakes.rollout([["x"], ["y"], []], answers=[answer(1.0, retrieved=[0, 1]), answer(0.0, retrieved=[1])])
    paper, per_step = (RewardsConfig(evidence=EvidenceConfig(scale=scale)) for scale in ("paper", "per_step"))
    found = evidence.turn_rewards(rollout, per_step, fakes.count_words)
    np.testing.assert_allclose(found, 3 * evidence.turn_rewards(rollout, paper, fakes.count_words))
    assert found.sum() == pytest.approx(3 * 0.5)


def test_compression_is_relative_to_the_budget_where_that_is_less_than_what_was_read():
    rollout = fakes.rollout([["a b c d"], ["e f"]])  # keeps all 6 words
    for budget, expected in ((12, 0.0), (4, 1 - 6 / 4)):
        cfg = RewardsConfig(settings={"compression": {"budget": budget}})
        assert compression.turn_rewards(rollout, cfg, fakes.count_words) == pytest.approx(expected)
    with pytest.raises(UserError, match=r"compression.budget=-1: must be at least 0"):
        config.validate(Config(rewards=RewardsConfig(settings={"compression": {"budget": -1}})))


def test_a_config_that_pays_for_forgetting_is_told_so():
    assert not forgetting_pays(RewardsConfig(), 4)  # 0.2 of reward against answers worth 1
    assert "over 20 chunks a memory that keeps nothing saves up to 1.00" in forgetting_pays(RewardsConfig(), 20)
    assert not forgetting_pays(RewardsConfig(evidence=EvidenceConfig(scale="per_step")), 200)
    assert not forgetting_pays(RewardsConfig(weights={"compression": 0.05, "outcome": 1.0}), 200)
    assert not forgetting_pays(RewardsConfig(weights={"evidence": 1.0}), 200)


def test_format_is_the_share_of_good_operations_and_0_without_any():
    rollout = fakes.rollout([["x"], [], ["z"]], outcomes=[[True, False, False, True], [], [True]])
    np.testing.assert_allclose(format.turn_rewards(rollout, RewardsConfig(), fakes.count_words), [0.5, 0.0, 1.0])


def test_chunk_qa_is_the_mean_score_of_the_step_and_missing_when_all_failed():
    answers = [answer(1.0, 0), answer(0.0, 0), answer(0.5, 1), answer(None, 2), answer(1.0, 2), answer(0.0)]
    answers += [answer(None, 3), answer(None, 3)]
    got = chunk_qa.turn_rewards(fakes.rollout([["x"]] * 5, answers=answers), RewardsConfig(), fakes.count_words)
    np.testing.assert_allclose(got, [0.5, 0.5, 1.0, np.nan, 0.0])


def test_compression_is_one_minus_kept_over_read():
    rollout = fakes.rollout([["a b c d"], ["e f"]])
    assert compression.turn_rewards(rollout, RewardsConfig(), fakes.count_words) == 0.0
    rollout = fakes.rollout([["a b"], []])  # its second chunk is "nothing", of which nothing was kept
    assert compression.turn_rewards(rollout, RewardsConfig(), fakes.count_words) == pytest.approx(1 - 2 / 3)


def group(*score_lists):
    """Samples whose chunk answers have the given scores, one per step."""
    return [
        fakes.rollout([["x"]] * len(scores), answers=[answer(s, t) for t, s in enumerate(scores)], sample=i)
        for i, scores in enumerate(score_lists)
    ]


def test_total_is_the_weighted_sum_and_a_weight_of_0_computes_nothing():
    cfg = RewardsConfig(weights={"format": 2.0, "chunk_qa": 0.5, "evidence": 0.0, "compression": 0.0})
    turns = tabulate([group([1.0, 0.0], [0.0, 1.0])], cfg, fakes.count_words)
    # "x" again at turn 1 is a duplicate: format 0 there
    np.testing.assert_allclose(turns.split(totals(turns, cfg.weights))[0], [[2.5, 0.0], [2.0, 0.5]])
    assert set(turns.terms) == {"format", "chunk_qa"}


def test_a_missing_term_leaves_the_whole_group_without_a_reward_at_that_turn_only():
    cfg = RewardsConfig(weights={"format": 1.0, "chunk_qa": 0.5})
    groups = [group([1.0, 1.0], [None, 0.0]), group([1.0, 1.0], [0.0, 0.0])]
    turns = tabulate(groups, cfg, fakes.count_words)
    rewards = turns.split(complete(totals(turns, cfg.weights), step_keys(turns)))
    np.testing.assert_allclose(rewards[0], [[np.nan, 0.5], [np.nan, 0.0]])
    np.testing.assert_allclose(rewards[1], [[1.5, 0.5], [1.0, 0.0]])
    found = advantages(turns, cfg.weights, AdvantageConfig())
    assert np.isnan(turns.split(found)[0][0][0]) and np.isfinite(turns.split(found)[1]).all()
    assert reward_metrics(turns, cfg.weights, found, step_keys(turns))["missing_rewards"] == 1 / 4


def test_rollouts_of_other_lengths_have_as_many_lines_as_turns():
    cfg = RewardsConfig(weights={"format": 1.0})
    turns = tabulate([group([1.0]), group([1.0, 1.0])], cfg, fakes.count_words)
    assert [[len(sample) for sample in of_group] for of_group in turns.split(turns.index)] == [[1], [2]]


def test_chunk_questions_are_asked_only_when_a_term_reads_them():
    assert asks_chunk_questions(RewardsConfig())
    assert not asks_chunk_questions(RewardsConfig(weights={"format": 1.0, "chunk_qa": 0.0}))


def slow_shares(terms, weights, advantages):
    """Share of each term: its covariance with the advantage over the advantage's variance, in plain loops."""
    groups, samples, steps = advantages.shape
    parts, whole = dict.fromkeys(terms, 0.0), 0.0
    for g in range(groups):
        for t in range(steps):
            total = [sum(weights[k] * terms[k][g, s, t] for k in terms) for s in range(samples)]
            mean = sum(total) / samples
            deviation = (sum((x - mean) ** 2 for x in total) / (samples - 1)) ** 0.5
            for s in range(samples):
                for k in terms:
                    own_mean = sum(terms[k][g, i, t] for i in range(samples)) / samples
                    parts[k] += weights[k] * (terms[k][g, s, t] - own_mean) / deviation * advantages[g, s, t]
                whole += advantages[g, s, t] ** 2
    return {k: part / whole for k, part in parts.items()}


def table(terms):
    """The table of terms [groups, samples, turns], without the turns that are NaN in all of them, and its keys."""
    shape = next(iter(terms.values())).shape
    exists = ~np.all([np.isnan(term) for term in terms.values()], axis=0)
    group, sample, index = (places[exists] for places in np.indices(shape))
    flat = {name: term[exists] for name, term in terms.items()}
    turns = Turns(group, sample, index, np.zeros_like(group), flat, {name: np.ones(len(group), bool) for name in flat})
    return turns, step_keys(turns)


def test_variance_shares_equal_the_formula_and_sum_to_one():
    rng = np.random.default_rng(3)
    terms = {name: rng.random((3, 5, 2)) for name in ("format", "evidence", "compression")}
    weights = {"format": 1.0, "evidence": 0.7, "compression": -0.2}
    total = sum(weights[k] * terms[k] for k in terms)
    found = group_advantages(total, eps=0.0)
    turns, keys = table(terms)
    got = variance_shares(turns, weights, found.ravel(), keys)
    assert got == pytest.approx(slow_shares(terms, weights, found), abs=1e-9)
    assert sum(got.values()) == pytest.approx(1, abs=1e-9)


EQUAL = {"format": 1.0, "evidence": 1.0}


def test_a_term_without_spread_has_no_share():
    turns, keys = table({"format": np.array([[[0.0], [1.0]]]), "evidence": np.array([[[0.3], [0.3]]])})
    shares = variance_shares(turns, EQUAL, advantages(turns, EQUAL, AdvantageConfig()), keys)
    assert shares == pytest.approx({"format": 1.0, "evidence": 0.0})


def test_shares_pass_over_missing_turns_and_missing_terms():
    nan = np.nan
    turns, keys = table(
        {
            "format": np.array([[[0.0, 1.0], [1.0, nan], [1.0, 0.0]]]),  # the second sample has one turn only
            "evidence": np.array([[[nan, 0.5], [0.9, nan], [0.1, 0.1]]]),  # missing at turn 0: left out
        }
    )
    found = advantages(turns, EQUAL, AdvantageConfig(min_std=0.0))
    shares = variance_shares(turns, EQUAL, found, keys)
    # turn 0 has no reward; turn 1: two samples, of whose difference of 1.4 the format's is 1
    assert shares == pytest.approx({"format": 1 / 1.4, "evidence": 0.4 / 1.4}, abs=1e-5)
    assert set(variance_shares(turns, EQUAL, found * 0, keys).values()) == {0.0}


def test_skips_beside_other_calls_buy_nothing():
    """Two broken calls of four scored .5, and .875 with twelve SKIPs behind them."""
    skip, insert = Operation("memory_skip"), Operation("memory_insert", {"content": "a"})
    broken = Operation("memory_delete", {"id": "#9"})
    written = [insert, Operation("memory_insert", {"content": "b"}), broken, broken]

    def reward(operations):
        _, outcomes = environment.apply(fakes.flat_memory(), operations, 0, MemoryConfig(max_operations=20), ())
        rollout = fakes.rollout([["x"]], outcomes=[[outcome.ok for outcome in outcomes]])
        return format.turn_rewards(rollout, RewardsConfig(), len).tolist()

    assert reward(written) == [0.5]
    assert reward([*written, *[skip] * 12]) == [2 / 16]
    assert reward([skip] * 3) == [0.0] and reward([skip]) == [1.0]
