"""Groups that write from one memory: their prompts are the same token for token, and the trunk is a rollout."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax.baselines._scripted import SKIP, insert
from finemem_jax.config import AdvantageConfig, Config, EvidenceConfig, MethodConfig, RewardsConfig, UserError
from finemem_jax.env.environment import training_questions
from finemem_jax.env.turns import advantages, compared, tabulate
from finemem_jax.rewards import gain
from finemem_jax.rollouts.collect import Job, collect_rollouts, scripted_completion
from finemem_jax.rollouts.shared_states import check_states, collect_local, collect_trunks
from finemem_jax.types import Chunk, Episode, Question, Sampling

FACTS = ("red Maya sofa", "Orlov Leo dentist", "Lisbon Ida office")
REWARDS = RewardsConfig(
    weights={"format": 1.0, "chunk_qa": 0.5, "gain": 1.0, "evidence": 1.0},
    evidence=EvidenceConfig(attribution="shapley"),
    question_share=1.0,
)
SAMPLES = 3


def question(fact):
    value, name, what = fact.split()
    return Question(f"what is {name}'s {what}?", (value,), "exact_match")


def episode(name):
    chunks = tuple(Chunk(fact, i, (question(fact),)) for i, fact in enumerate(FACTS))
    return Episode(name, "fake", chunks, tuple(map(question, FACTS)))


class ScriptedEngine:
    """Drives turns as the engine does; what a sample writes depends on its key alone: some of the facts."""

    roles = ()

    def __init__(self, env):
        self.env = env

    def run(self, turns, names):
        return [self._drive(turn) for turn in turns]

    def _drive(self, turn):
        try:
            request = next(turn)
            while True:
                *_, sample, index = request.key
                writes = [insert(FACTS[index])] if (sample + index) % 2 == 0 else [SKIP]
                completion = scripted_completion(self.env, None, None, lambda episode, turn, writes=writes: writes)
                request = turn.send(completion)
        except StopIteration as end:
            return end.value


@pytest.fixture
def parts(env):
    from finemem_jax.config import AnswererConfig, resolve

    answerer = resolve("finemem_jax.answerers", "extractive").create(AnswererConfig())
    jobs = [
        Job(e, training_questions(e, REWARDS, asks_chunks=True, seed="x"), g, s)
        for g, e in enumerate([episode("a"), episode("b")])
        for s in range(SAMPLES)
    ]
    return ScriptedEngine(env), env, answerer, jobs


def grouped(rollouts):
    groups = {}
    for rollout in rollouts:
        groups.setdefault(rollout.group, []).append(rollout)
    return groups


def trunks(parts, **words):
    return grouped(collect_trunks(*parts, Sampling(), **({"seed": 0, "step": 0} | words)))


def test_all_samples_of_a_trunk_have_the_same_prompt_at_every_step(parts):
    groups = trunks(parts)
    assert [[r.branches for r in group] for group in groups.values()] == [[False, True, True]] * 2
    for group in groups.values():
        for t in range(len(FACTS)):
            prompts = {rollout.steps[t].prompt_tokens for rollout in group}
            assert len(prompts) == 1 and len({rollout.steps[t].state for rollout in group}) == 1
        assert len({rollout.steps[0].text for rollout in group}) > 1  # they write differently


def test_ordinary_samples_have_not(parts):
    groups = grouped(collect_rollouts(*parts, Sampling(), seed=0, step=0))
    assert len({rollout.steps[2].prompt_tokens for rollout in groups[0]}) > 1


def test_the_trunk_is_a_rollout_of_its_own_turns_and_chance_says_which_goes_on(parts):
    seen = set()
    for step in range(8):
        for group in trunks(parts, step=step).values():
            trunk, *others = group
            shown = parts[1].tokenizer.decode(list(trunk.steps[2].prompt_tokens))
            held = [item.text for item in trunk.steps[1].memory_after.items]
            assert all(text in shown for text in held)
            assert len(trunk.final_answers) == len(FACTS) and not any(r.final_answers for r in others)
            assert all(len(r.of("write")) == len(FACTS) for r in group)
            seen.add(tuple(item.text for item in trunk.memory.items))
    assert len(seen) > 2
    assert trunks(parts, step=3) == trunks(parts, step=3)


def test_gains_are_measured_from_the_shared_memory(parts):
    for group in trunks(parts).values():
        known = []
        for t in range(len(FACTS)):
            for rollout in group:
                new = {i.text for i in rollout.steps[t].memory_after.items} - set(known)
                assert gain.chunk_gain(rollout)[t] == float(FACTS[t] in new)
                assert gain.final_gain(rollout)[t] == pytest.approx(len(new) / 3)
            known = [item.text for item in group[0].steps[t].memory_after.items]
        score = np.mean([answer.score for answer in group[0].final_answers])
        assert gain.final_gain(group[0]).sum() == pytest.approx(score)


def test_the_end_belongs_to_the_trunk(parts):
    groups = list(trunks(parts).values())
    turns = tabulate(groups, REWARDS, parts[1].count_tokens)
    assert turns.at_end == {"evidence"}
    np.testing.assert_array_equal(turns.speaks["evidence"], turns.sample == 0)
    cfg = AdvantageConfig(credit="state", std="none")
    keys = compared(turns, cfg)
    assert sorted(np.bincount(keys)) == [SAMPLES] * 2 * len(FACTS)
    without = dataclasses.replace(turns, terms={**turns.terms, "evidence": np.zeros(len(turns))})
    difference = advantages(turns, REWARDS.weights, cfg) - advantages(without, REWARDS.weights, cfg)
    assert np.isfinite(difference).all() and not difference[turns.sample > 0].any()


def test_local_completions_have_the_prompt_of_the_turn_that_they_are_written_again_for(parts):
    groups = grouped(collect_rollouts(*parts, Sampling(), seed=0, step=0))
    engine, env, answerer, jobs = parts
    cfg = AdvantageConfig(credit="state", states="local", local_share=0.7, local_samples=2)
    local = collect_local(engine, env, answerer, jobs, groups, Sampling(), cfg, seed=0, step=0)
    assert len(local) in range(2, 12) and all(len(r.steps) == 1 and r.branches and not r.final_answers for r in local)
    for rollout in local:
        (step,) = rollout.steps
        _, origin, index = step.state.split()
        assert step.prompt_tokens == groups[rollout.group][int(origin)].steps[int(index)].prompt_tokens
        assert step.index == step.chunk == int(index)
    tables = [groups[g] + [r for r in local if r.group == g] for g in groups]
    assert len({(r.group, r.sample) for of_group in tables for r in of_group}) == 2 * SAMPLES + len(local)
    turns = tabulate(tables, REWARDS, env.count_tokens)
    found, keys = advantages(turns, REWARDS.weights, cfg), compared(turns, cfg)
    is_local = turns.state >= 0
    assert set(np.bincount(keys[is_local])) - {0} == {2} and np.isfinite(found).all()
    ordinary = tabulate(list(groups.values()), REWARDS, env.count_tokens)
    by_step = advantages(ordinary, REWARDS.weights, AdvantageConfig())
    np.testing.assert_allclose(found[~is_local], by_step)


def test_a_method_whose_turns_cannot_be_repeated_is_refused():
    check_states(Config())
    with pytest.raises(UserError, match="use stream and answerer"):
        check_states(Config(advantage=AdvantageConfig(credit="state"), method=MethodConfig(answers="policy")))
