"""The credit that the report shows adds up, for every attribution and credit rule: recomputed from records alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random

import numpy as np
import pytest

from finemem_jax.config import AdvantageConfig, EvidenceConfig, RewardsConfig, plugins, resolve
from finemem_jax.env import attribution
from finemem_jax.env.credit import complete
from finemem_jax.env.turns import advantages, compared, tabulate, totals
from finemem_jax.evaluation.records import group_record, read_sample
from finemem_jax.files import JsonLines, read_lines
from finemem_jax.reporting.credit import compact_flows, evidence_rules, group_flows, into_turns
from finemem_jax.types import Answer, Question, Reply, Retrieved
from tests import fakes

STEPS, QUESTIONS, SAMPLES = 4, 5, 3
ATTRIBUTIONS = ("retrieved", "cited", "leave_one_out", "shapley")


def asked(rng, rule, lost):
    """A sample whose questions retrieved none to six items of any step, asked again as the attribution wants it."""
    answers = []
    for q in range(QUESTIONS):
        items = []
        for i in range(rng.randrange(7)):
            writers = tuple(sorted(rng.sample(range(STEPS), rng.randint(1, 3))))
            items.append(Retrieved(f"#{i}", writers[-1], writers, f"item {i}", 0.5))
        score = None if (q == 1 and lost) else rng.random()
        again = attribution.subsets(rule, len(items), 8, f"q{q}") if rule in ("leave_one_out", "shapley") else ()
        cited = tuple(i for i in range(len(items)) if rng.random() < 0.5) if rule == "cited" else None
        answers.append(
            Answer(
                Question(f"q{q}", ("gold",)),
                tuple(items),
                "said",
                score,
                reply=Reply("said", cited=cited),
                subsets=tuple((bits, rng.random()) for bits in again),
            )
        )
    return tuple(answers)


def recorded(path, rules, credit, seed):
    """A group as training records it, written to a file and read back; one sample got no answer to question 1."""
    rng = random.Random(f"{rules} {credit} {seed}")
    cfg = RewardsConfig(weights={"evidence": 1.0, "format": 1.0}, evidence=rules)
    group = [
        dataclasses.replace(
            fakes.rollout([[f"fact {t}"] for t in range(STEPS)], sample=s),
            answers=asked(rng, rules.attribution, s == 2),
        )
        for s in range(SAMPLES)
    ]
    turns, how = tabulate([group], cfg, fakes.count_words), AdvantageConfig(credit=credit)
    total = complete(totals(turns, cfg.weights), compared(turns, how))
    found = advantages(turns, cfg.weights, how)
    terms = {name: turns.split(term)[0] for name, term in turns.terms.items()}
    log = JsonLines(path, keep_below=0)
    log.write(seed, group_record(group, terms, turns.split(total)[0], turns.split(found)[0]))
    return read_lines(path)[-1]


@pytest.mark.parametrize("credit", plugins("finemem_jax.credit"))
@pytest.mark.parametrize("rule", ATTRIBUTIONS)
def test_what_flows_into_steps_is_what_flows_out_of_questions_and_what_was_logged(rule, credit, tmp_path):
    for scale, unanchored, update in itertools.product(
        ("paper", "per_step"), ("uniform", "drop"), ("last_write", "shared")
    ):
        rules = EvidenceConfig(
            attribution=rule, scale=scale, unanchored=unanchored, update_credit=update, beta=0.7, permutations=3
        )
        record = recorded(tmp_path / "rollouts.jsonl", rules, credit, seed=0)
        stored = json.loads(json.dumps({"rewards": {"evidence": dataclasses.asdict(rules)}}))
        assert evidence_rules(stored) == rules
        found = group_flows(record["samples"], rules)
        for sample, flows in zip(record["samples"], found, strict=True):
            steps = into_turns(flows, read_sample(sample))
            np.testing.assert_allclose(steps, sample["rewards"]["evidence"], atol=1e-8)
            times = STEPS if scale == "per_step" else 1
            kept = [q for q in range(QUESTIONS) if q != 1]  # what one sample got no answer to counts for none
            scores = [sample["answers"][q]["score"] for q in kept]
            out = [sum(flow.amount for flow in flows if flow.question == q) for q in range(QUESTIONS)]
            assert out[1] == 0
            np.testing.assert_allclose([out[q] for q in kept], times * np.array(scores) / len(kept), atol=1e-8)
            lost = sum(flow.amount for flow in flows if not flow.turns)
            assert lost == 0 or unanchored == "drop"
            assert steps.sum() + lost == pytest.approx(sum(out))
            for q, entry in enumerate(compact_flows(flows, QUESTIONS)):
                assert (entry == 0) == (q == 1)
                if entry:
                    assert entry[0] + entry[1] + sum(entry[2]) == pytest.approx(out[q], abs=1e-4)
                    assert len(entry[2]) == len(sample["answers"][q]["retrieved"])


def test_credit_that_does_not_sum_to_the_logged_reward_is_not_told(tmp_path):
    rules = EvidenceConfig(attribution="shapley")
    record = recorded(tmp_path / "rollouts.jsonl", rules, "step", seed=0)
    assert group_flows(record["samples"], EvidenceConfig()) is None  # by another rule
    without = json.loads(json.dumps(record))
    for sample in without["samples"]:
        for answer in sample["answers"]:
            answer.pop("subsets", None)  # as recorded by older code
    assert group_flows(without["samples"], rules) is None
    assert group_flows([{"steps": 3}], rules) is None


def test_nothing_is_known_of_other_settings_than_evidences():
    assert evidence_rules({"rewards": {"evidence": {"beta": 0.25, "from_the_future": 1}}}) == EvidenceConfig(beta=0.25)
    for damaged in ({}, {"rewards": 3}, {"rewards": {"evidence": 3}}, {"rewards": {"evidence": {"beta": "x"}}}):
        assert evidence_rules(damaged) == EvidenceConfig()


def test_an_answer_without_anything_retrieved_or_a_rollout_without_answers_has_its_flows():
    rollout = fakes.rollout([["a"], ["b"]])
    nothing = dataclasses.replace(rollout, answers=(Answer(Question("q", ("a",)), (), "a", 1.0),))
    flows = resolve("finemem_jax.rewards", "evidence").flows
    assert flows(rollout, RewardsConfig()) == []
    (alike,) = flows(nothing, RewardsConfig())
    assert (alike.amount, list(alike.turns), alike.item) == (1.0, [0, 1], None)
    dropped = RewardsConfig(evidence=EvidenceConfig(unanchored="drop"))
    assert [flow.amount for flow in flows(nothing, dropped)] == [0.5, 0.5]
