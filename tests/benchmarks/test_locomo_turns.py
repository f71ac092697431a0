"""LoCoMo turn by turn: what is read, what is given before, and which questions can be answered from both."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.benchmarks import locomo_turns
from finemem_jax.config import DataConfig, RetrievalConfig, RewardsConfig, TurnsConfig, UserError, resolve
from finemem_jax.env import operations
from finemem_jax.env.environment import all_questions, play, retriever
from finemem_jax.env.speakers import speaker_of
from finemem_jax.types import BEFORE, WRITE, Completion
from tests.corpora.conftest import WRITERS


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locomo")
    WRITERS["locomo"](folder)  # 5 conversations of 8 sessions with two turns and two questions
    return str(folder)


def load(raw, split="eval", seed=0, limit=0, **turns):
    cfg = DataConfig(name="locomo_turns", path=raw, limit=limit, turns=TurnsConfig(**turns))
    return locomo_turns.load(cfg, split, seed)


def test_a_turn_is_read_after_the_entries_of_those_before(raw):
    episodes = load(raw, read=1, given=3)
    assert len(episodes) == 16 and {episode.id.rpartition(":")[0] for episode in episodes} == {"locomo_turns-conv-4"}
    fourth = episodes[3]
    assert fourth.chunks[0].text == "[2 May 2023] Bo: I saw film 4-2. [shares a picture: a cinema]"
    assert fourth.chunks[0].time == "2023-05-02T13:00:00"
    assert fourth.start == (
        "[1 May 2023] Ann: Hello, this is talk 4-1.",
        "[1 May 2023] Bo: I saw film 4-1. [shares a picture: a cinema]",
        "[2 May 2023] Ann: Hello, this is talk 4-2.",
    )
    assert [(q.text, q.evidence, q.metric) for q in fourth.questions] == [
        ("Which film in 4-2?", (0,), "exact_match"),
        ("Both of 4?", (0,), "exact_match"),  # its first turn is given
    ]
    assert fourth.chunks[0].questions == fourth.questions
    assert [q.text for q in load(raw, read=1, given=1)[3].questions] == ["Which film in 4-2?"]


def test_what_is_read_alone_and_what_is_given_alone(raw):
    own = load(raw, read=5, given=0)
    assert [len(episode.chunks) for episode in own] == [5, 5, 5, 1] and not any(e.start for e in own)
    assert [len(episode.questions) for episode in own] == [6, 5, 5, 1]
    assert own[0].questions[-1].evidence == (1, 3) and own[0].chunks[3].questions[-1].text == "Both of 4?"
    given = load(raw, read=0, given=-1)
    assert len(given) == 17 and all(len(e.start) == 16 and not e.chunks and len(e.questions) == 1 for e in given)
    near = load(raw, read=0, given=2)
    assert len(near) == 16 and near[0].start[-1].endswith("I saw film 4-1. [shares a picture: a cinema]")
    with pytest.raises(UserError, match=r"turns\.read=0 and config\.data\.turns\.given=0"):
        load(raw, read=0, given=0)


def test_conversations_are_held_out_whole_and_a_limit_keeps_the_same_ones(raw):
    train, held_out = load(raw, "train"), load(raw)
    names = [{episode.id.rpartition(":")[0] for episode in part} for part in (train, held_out)]
    assert len(names[0]) == 4 and not names[0] & names[1]
    kept = [load(raw, "train", seed, limit=5) for seed in (0, 1)]
    assert sorted(e.id for e in kept[0]) == sorted(e.id for e in kept[1]) and kept[0] != kept[1]


def test_facts_of_a_model_stand_in_the_place_of_what_was_said(raw, tmp_path):
    facts = tmp_path / "facts.jsonl"
    rows = [("D1:1", ["Ann greets."]), ("D1:2", []), ("D2:1", ["a", "b\nc"])]
    facts.write_text("".join(json.dumps({"conversation": "conv-4", "turn": t, "facts": f}) + "\n" for t, f in rows))
    third = load(raw, read=1, given=3, facts=str(facts))[2]
    assert third.start == ("[1 May 2023] Ann: Ann greets.",)
    assert third.chunks[0].text == "[2 May 2023] Ann: a\n[2 May 2023] Ann: b c"
    facts.write_text('{"conversation": "conv-4", "turn": "D1:1", "facts": [3]}')
    with pytest.raises(UserError, match=r"turns\.facts=.* line 1: .*facts"):
        load(raw, facts=str(facts))


# --------------------------------------------------------------------------------------------------------------
# What an episode begins with
# --------------------------------------------------------------------------------------------------------------


def played(env, episode, said):
    """The rollout of a policy that says these texts, and the prompts it read."""
    game = play(env, episode, all_questions(episode), lambda requests: [])
    turns = [next(game)]
    for text in said:
        tokens = (*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id)
        try:
            turns.append(game.send(Completion(tokens, (-0.5,) * len(tokens), "stop")))
        except StopIteration as end:
            return end.value(), [env.tokenizer.decode(turn.prompt_tokens) for turn in turns]
    raise AssertionError("the episode wants more turns")


@pytest.fixture(scope="module")
def own(env):
    """The environment of the three configs."""
    cfg = main.load_config("configs/neighbours/memory_r1_both.py", [])
    return replace(env, memory=cfg.memory, prompt=cfg.prompt, method=cfg.method, retrieval=cfg.retrieval)


def test_a_given_memory_is_seen_changed_and_takes_no_credit(own, raw):
    episode = load(raw, read=1, given=3)[3]
    text = '{"memory": [{"id": "#2", "text": "[1 May 2023] Bo: He saw film 4-1 and film 4-2.", "event": "UPDATE"}]}'
    rollout, prompts = played(own, episode, [text, "Bo saw two. **Answer:** film 4-2", "**Answer:** nothing"])
    assert "[#2] [1 May 2023] Bo: I saw film 4-1." in prompts[0] and episode.chunks[0].text in prompts[0]
    assert "Memory of Bo:\n[1 May 2023] Bo: He saw film 4-1 and" in prompts[1] and "Memory of Ann:\n" in prompts[1]
    assert [answer.score for answer in rollout.answers] == [1.0, 0.0]
    assert [(i.id, i.written_at, i.writers) for i in rollout.memory.items] == [
        ("#1", BEFORE, (BEFORE,)),
        ("#2", 0, (BEFORE, 0)),
        ("#3", BEFORE, (BEFORE,)),
    ]
    evidence = resolve("finemem_jax.rewards", "evidence")
    for cfg in (RewardsConfig(), replace(RewardsConfig(), evidence=replace(RewardsConfig().evidence, beta=1.0))):
        np.testing.assert_allclose(evidence.turn_rewards(rollout, cfg, own.count_tokens), [0.5])
    shared = replace(cfg, evidence=replace(cfg.evidence, update_credit="shared", unanchored="drop"))
    (earned,) = evidence.turn_rewards(rollout, shared, own.count_tokens)  # of three items half of one is the turn's
    assert earned == pytest.approx(0.5 / 3 / 2)


def test_a_question_without_a_turn_is_answered_from_what_is_given(own, raw):
    episode = load(raw, read=0, given=2)[0]
    rollout, prompts = played(own, episode, ["so **Answer:** talk 4-1"])
    assert not rollout.of(WRITE) and episode.start[0] in prompts[0] and len(rollout.memory.items) == len(episode.start)
    evidence = resolve("finemem_jax.rewards", "evidence")
    assert evidence.turn_rewards(rollout, RewardsConfig(), own.count_tokens).shape == (0,)


def test_a_memory_that_does_not_take_what_is_given_says_whose_it_is(own, raw):
    episode = load(raw, read=1, given=3)[3]
    for memory, why in (({"name": "overwrite"}, "unknown tool"), ({"max_items": 2}, "over limit")):
        with pytest.raises(UserError, match=rf"episode 'locomo_turns-conv-4:3-4'.*config\.memory\.name.*{why}"):
            replace(own, memory=replace(own.memory, **memory)).first_memory(episode)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[8 May 2023] Caroline: I went", "Caroline"),
        ("Dr. Ann Lee: hello", "Dr. Ann Lee"),
        ("it was 10:30: late", ""),
        ("Caroline went", ""),
        ("[8 May 2023", ""),
        ("", ""),
    ],
)
def test_an_entry_says_whose_it_is(text, name):
    assert speaker_of(text) == name


def test_so_many_entries_of_every_speaker_are_found(own, raw):
    memory = own.first_memory(load(raw, read=0, given=-1)[0])
    env = replace(own, retrieval=RetrievalConfig(per_kind=2, split_by="speaker"))
    found = retriever(memory.items, env)("Which talk and film in 4-2?")
    assert sorted(speaker_of(item.text) for item in found) == ["Ann", "Ann", "Bo", "Bo"]
    assert len(retriever(memory.items, own)("Which talk and film in 4-2?")) == 16


def test_the_codec_and_the_prompt_say_the_same_of_an_entry(own):
    module = resolve("finemem_jax.prompts", "memory_r1")
    assert module.read_answer("**Answer:** a\n**Answer:** b ") == "b" and module.read_answer("b") == ""
    assert operations.unfit("memory_list", own.specs) == ""
