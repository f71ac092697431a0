"""The search method: what a turn sees, what ends it, how it is credited. No reader of rollouts needs writes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax import config, main
from finemem_jax.config import AdvantageConfig, MemoryConfig, MethodConfig, RetrievalConfig, RewardsConfig, UserError
from finemem_jax.env.environment import Asked, play
from finemem_jax.env.rehearsal import rehearse
from finemem_jax.env.stopping import StopStrings
from finemem_jax.env.turns import advantages, step_keys, tabulate
from finemem_jax.evaluation.records import full_records, measures, record_metrics, sample_record
from finemem_jax.methods.search import split_answers
from finemem_jax.reporting.compact import Strings, compact_sample
from finemem_jax.rollouts.metrics import asked_metrics, reward_metrics, rollout_metrics
from finemem_jax.types import SEARCH, Chunk, Completion, Episode, Question

CHUNKS = ("Maya's dentist is Orlov", "Leo has a red sofa", "the tram was late again")
QUESTIONS = (Question("who is Maya's dentist?", ("Orlov",)), Question("what colour is Leo's sofa?", ("red",)))
EPISODE = Episode("e", "test", tuple(Chunk(text, i) for i, text in enumerate(CHUNKS)), QUESTIONS, "Be brief.")


@pytest.fixture
def agent(env):
    return dataclasses.replace(
        env,
        memory=MemoryConfig(name="overwrite", max_tokens=64),
        prompt=dataclasses.replace(env.prompt, name="mem1", codec="think"),
        method=MethodConfig(name="search", answers="policy", turns=4),
        retrieval=RetrievalConfig(k=1),
    )


def played(agent, said, episode=EPISODE, sample=0):
    """The rollout of a policy that says these texts, as the engine ends them, and its prompts."""
    game = play(agent, episode, Asked(((),) * len(episode.chunks), episode.questions), None, sample=sample)
    turns = [next(game)]
    for text in said:
        tokens = agent.tokenizer.encode(text, add_special_tokens=False)
        length, finish = turns[-1].stop.length(tokens), "string"
        if not length:
            tokens, finish = [*tokens, agent.tokenizer.eos_token_id], "stop"
        kept = tuple(tokens[: length or None])
        try:
            turns.append(game.send(Completion(kept, (-0.5,) * len(kept), finish)))
        except StopIteration as end:
            return end.value(), [agent.tokenizer.decode(turn.prompt_tokens) for turn in turns]
    raise AssertionError("the episode wants more turns")


SEARCHED = "<think>look for Orlov</think><search>Maya's dentist</search>"
AGAIN = "<think>the dentist is Orlov</think><search>Leo sofa</search>"
ANSWERED = "<think>all known</think><answer>Orlov\nred</answer>"


def test_a_turn_sees_the_last_thought_the_last_search_and_what_it_found(agent):
    rollout, prompts = played(agent, [SEARCHED, AGAIN, ANSWERED])
    assert all(question.text in prompt and "Be brief." in prompt for question in QUESTIONS for prompt in prompts)
    assert "<information>" not in prompts[0].split("Questions:")[1] and "Steps left: 4." in prompts[0]
    assert "<think>\nlook for Orlov\n</think>\n<search>Maya's dentist</search>" in prompts[1]
    assert CHUNKS[0] in prompts[1] and CHUNKS[1] not in prompts[1] and "Steps left: 3." in prompts[1]
    assert "the dentist is Orlov" in prompts[2] and CHUNKS[1] in prompts[2]
    assert "look for Orlov" not in prompts[2] and CHUNKS[0] not in prompts[2]  # of all before nothing is left
    assert [step.role for step in rollout.steps] == [SEARCH] * 3 and [s.index for s in rollout.steps] == [0, 1, 2]
    assert [step.memory_after.items[0].text for step in rollout.steps][1:] == ["the dentist is Orlov", "all known"]
    assert [(a.text, a.score, a.turn) for a in rollout.answers] == [("Orlov", 1.0, 2), ("red", 1.0, 2)]


def test_a_training_row_is_the_turns_own_context_and_ends_with_the_tag(agent):
    rollout, prompts = played(agent, [SEARCHED + " and on it goes", ANSWERED])
    first = rollout.steps[0]
    assert agent.tokenizer.decode(first.completion.tokens) == first.text == SEARCHED
    assert [agent.tokenizer.decode(step.prompt_tokens) for step in rollout.steps] == prompts


@pytest.mark.parametrize(
    "said",
    [
        ["I do not know"],
        ["<think>the <search>x</search>"],  # inside a thought
        ["<answer>Orlov"],
        [SEARCHED] * 4,  # the last turn cannot search
    ],
)
def test_who_neither_searches_nor_answers_has_no_answer(agent, said):
    rollout, prompts = played(agent, said)
    assert len(prompts) == len(said) == len(rollout.steps)
    assert [(answer.text, answer.score) for answer in rollout.answers] == [("", 0.0)] * 2


def test_the_last_turn_is_told_and_may_only_answer(agent):
    rollout, prompts = played(agent, [SEARCHED] * 3 + ["<search>x</search> no: <answer>Orlov; red</answer>"])
    assert "This is your last step: answer." in prompts[3] and all("last step" not in p for p in prompts[:3])
    assert [answer.score for answer in rollout.answers] == [1.0, 1.0]


def test_answers_are_lines_or_stand_between_semicolons():
    assert split_answers("a; b", 1) == ["a; b"]
    assert split_answers("a; b", 2) == ["a", "b"]
    assert split_answers("a; b\n\nc", 2) == ["a; b", "c"]
    assert split_answers("a", 3) == ["a", "", ""] and split_answers("a;b;c", 2) == ["a", "b"]


def test_found_texts_leave_a_prompt_that_has_no_room_and_questions_that_have_none_are_named(agent):
    long = dataclasses.replace(EPISODE, chunks=(Chunk(CHUNKS[0] + " the tram was late again" * 9, 0),))
    _, prompts = played(agent, [SEARCHED, ANSWERED], long)
    room = len(agent.tokenizer.encode(prompts[1], add_special_tokens=False))
    tight = dataclasses.replace(agent, prompt=dataclasses.replace(agent.prompt, max_prompt_tokens=room - 1))
    assert "(nothing was found)" in played(tight, [SEARCHED, ANSWERED], long)[1][1]
    with pytest.raises(UserError, match=r"episode 'e', turn 0: .*config\.prompt\.max_prompt_tokens"):
        played(dataclasses.replace(agent, prompt=dataclasses.replace(agent.prompt, max_prompt_tokens=9)), [ANSWERED])


def test_a_stop_string_is_found_at_the_token_that_completes_it(env):
    stop = StopStrings(env.tokenizer, ("</search>", "</answer>"))
    tokens = env.tokenizer.encode("é <search>a</search> b </answer>", add_special_tokens=False)
    length = stop.length(tokens)
    assert env.tokenizer.decode(tokens[:length]).startswith("é <search>a</search>")
    assert "</search>" not in env.tokenizer.decode(tokens[: length - 1])
    assert stop.length(tokens[: length - 1]) == 0
    for start in range(length):  # however many came before in pieces
        assert stop.length(tokens, start) == length
    assert stop.cut("<search>a</search> b </answer>") == "<search>a</search>" and stop.cut("a") == "a"


# --------------------------------------------------------------------------------------------------------------
# Credit, and who reads a rollout without writes
# --------------------------------------------------------------------------------------------------------------


def test_turns_of_the_policys_own_number_are_compared_by_trajectory_and_never_by_column(agent):
    """A right answer after three turns, a wrong one at once: each turn has its sample's advantage."""
    right, _ = played(agent, [SEARCHED, AGAIN, ANSWERED])
    wrong, _ = played(agent, ["<think>a guess</think><answer>nobody\nblue</answer>"], sample=1)
    cfg = main.load_config("configs/neighbours/mem1_search.py", [])
    turns = tabulate([[right, wrong]], cfg.rewards, agent.count_tokens)
    credit = dataclasses.replace(cfg.advantage, std="none")
    np.testing.assert_allclose(advantages(turns, cfg.rewards.weights, credit), [0.5, 0.5, 0.5, -0.5])
    by_column = advantages(turns, cfg.rewards.weights, dataclasses.replace(credit, credit="step"))
    np.testing.assert_allclose(by_column, [0.5, 0.0, 0.0, -0.5])  # what must not be: two turns compared with nobody
    rehearse(agent, cfg.rewards, cfg.advantage)
    for column in ("step", "state"):
        with pytest.raises(UserError, match=rf"config\.advantage\.credit={column} .*config\.method\.name=search"):
            rehearse(agent, cfg.rewards, AdvantageConfig(credit=column))


@pytest.mark.parametrize("name", ["memagent", "mem1"])
def test_the_methods_as_contestants_read_the_stream_whatever_the_policy_does(name):
    cfg = main.load_config("configs/neighbours/mem1_search.py", [])
    own = config.resolve("finemem_jax.baselines", name).contestant(cfg).cfg
    assert own.method == dataclasses.replace(cfg.method, name="stream")


def test_everything_that_reads_rollouts_bears_one_without_writes(agent):
    rollouts = [played(agent, [SEARCHED, ANSWERED])[0], played(agent, ["nothing"], sample=1)[0]]
    every = RewardsConfig(weights=dict.fromkeys(config.plugins("finemem_jax.rewards"), 1.0))
    turns = tabulate([rollouts], every, agent.count_tokens)
    assert all(np.isfinite(term).all() for term in turns.terms.values())
    np.testing.assert_array_equal(turns.terms["evidence"], 0)
    assert config.resolve("finemem_jax.rewards", "evidence").flows(rollouts[0], every) == []
    line = rollout_metrics(rollouts)
    assert line["accuracy"] == 0.5 and "valid_operations" not in line and line["memory_tokens"] > 0
    assert "accuracy_low" not in line  # one episode says nothing of others
    found = advantages(turns, every.weights, AdvantageConfig(credit="trajectory"))
    assert np.isfinite(list(reward_metrics(turns, every.weights, found, step_keys(turns)).values())).all()
    assert asked_metrics(rollouts)["asked/distinct"] == 0  # no answerer was asked
    cfg = config.Config()
    taken = measures(cfg, in_training=False)
    metrics = record_metrics(full_records(rollouts, taken, cfg, None), taken, cfg)
    assert metrics["accuracy"] == 0.5 and metrics["completion_tokens"] > 1 and metrics["policy_calls"] == 3
    # Nothing was constructed: what was not found was not retrieved.
    assert metrics["failure/construction"] == 0 and metrics["failure/retrieval"] == 2
    strings = Strings()
    assert [len(compact_sample("x", sample_record(r), (), strings)[1]) for r in rollouts] == [2, 1]
