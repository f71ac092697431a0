"""The embedded task: seeded, disjoint splits, and episodes that need what they claim to need."""

from __future__ import annotations

import dataclasses

import pytest

from finemem_jax.benchmarks import diary
from finemem_jax.config import DataConfig, DiaryConfig, UserError
from finemem_jax.env import scoring
from finemem_jax.main import load_config


def utterances(episode):
    lines = [line for chunk in episode.chunks for line in chunk.text.splitlines()]
    asked = [q.text for chunk in episode.chunks for q in chunk.questions] + [q.text for q in episode.questions]
    said = {line.removeprefix("now ").split(" => ")[0] for line in lines}
    # a fact counts by what it is about, whatever its value
    said = {" ".join(text.split()[1:]) if text.split()[1] in diary.NAMES else text for text in said}
    return said | {q.removeprefix("what is ").removesuffix("?").replace("'s ", " ") for q in asked}


def test_held_out_episodes_share_no_utterance_with_training():
    """Not even a fact with another value, nor a labelled utterance without its label."""
    train, held_out = (diary.load(DataConfig(), split, 0) for split in ("train", "eval"))
    seen = set().union(*(utterances(train[i]) for i in range(600)))
    fresh = set().union(*(utterances(held_out[i]) for i in range(len(held_out))))
    assert len(seen) > 2000 and len(fresh) > 400
    assert not seen & fresh


def test_thousands_of_distinct_episodes():
    train = diary.load(DataConfig(), "train", 0)
    texts = {"\n".join(chunk.text for chunk in train[i].chunks) for i in range(2000)}
    assert len(train) >= 4000 and len(texts) == 2000


def test_another_seed_gives_other_episodes():
    first, second = (diary.load(DataConfig(), "train", seed)[0] for seed in (0, 1))
    assert first.chunks != second.chunks and first.id != second.id


def test_questions_are_about_what_was_said():
    episodes = diary.load(DataConfig(), "train", 0)
    kinds = set()
    for i in range(100):
        for question in episodes[i].questions:
            (day,), (gold,) = question.evidence, question.answers
            text = episodes[i].chunks[day].text
            kinds.add(question.kind)
            assert gold in text
            if question.kind == "label":
                assert question.text not in "\n".join(chunk.text for chunk in episodes[i].chunks)
            else:
                subject = question.text.removeprefix("what is ").removesuffix("?").replace("'s ", " ")
                said = [line for c in episodes[i].chunks for line in c.text.splitlines() if subject in line]
                assert said[-1].endswith(f"{gold} {subject}")
                assert len(said) == (2 if question.kind == "changed" else 1)
                assert said[-1].startswith("now ") == (question.kind == "changed")
    assert kinds == {"fact", "changed", "label"}


def test_difficulty_is_config():
    cfg = DiaryConfig(chunks=6, facts=1, examples=2, changes=2, noise=4, chunk_questions=2)
    episode = diary.load(DataConfig(diary=cfg), "train", 0)[0]
    assert len(episode.chunks) == 6
    assert len(episode.chunks[0].text.splitlines()) == 1 + 2 + 4
    assert all(len(chunk.questions) <= 2 for chunk in episode.chunks)


HARD = DiaryConfig(
    chunks=12, facts=2, silent=1, passing=1, repeats=1, forgets=4, namesakes=2, silent_questions=3,
    forgotten_questions=2, chunk_questions=8,
)  # fmt: skip


def test_silent_and_passing_facts_are_asked_for_where_they_should_be():
    episodes = diary.load(DataConfig(diary=HARD), "train", 0)
    kinds, passing = set(), 0
    for episode in (episodes[i] for i in range(30)):
        by_chunk = {q.text: q for chunk in episode.chunks for q in chunk.questions}
        for question in episode.questions:
            kinds.add(question.kind)
            if question.kind == "silent":
                assert question.text not in by_chunk
            if question.kind in ("silent", "fact"):
                subject = question.text.removeprefix("what is ").removesuffix("?").replace("'s ", " ")
                assert f"{question.answers[0]} {subject}" in episode.chunks[question.evidence[0]].text
        asked_for = {q.text for q in by_chunk.values() if q.kind == "passing"}
        passing += len(asked_for)
        assert not asked_for & {q.text for q in episode.questions if q.kind != "forgotten"}
    assert kinds == {"fact", "changed", "label", "silent", "forgotten"} and passing > 100


def test_what_is_to_be_forgotten_is_said_and_then_never_said_again():
    episodes = diary.load(DataConfig(diary=HARD), "train", 0)
    for episode in (episodes[i] for i in range(30)):
        questions = [q for q in episode.questions if q.kind == "forgotten"]
        assert len(questions) == 2
        for question in questions:
            (day,), (value,) = question.evidence, question.answers
            subject = question.text.removeprefix("what is ").removesuffix("?").replace("'s ", " ")
            said = [(c.index, line) for c in episode.chunks for line in c.text.splitlines() if line.endswith(subject)]
            assert said[-1] == (day, f"no more {subject}")
            assert said[0][0] < day and said[0][1] == f"{value} {subject}"
            assert scoring.score(question.metric, value, question.answers) == 0


def test_near_duplicates_are_retrieved_together():
    """The line that repeats a fact, and the same attribute of another person."""
    episode = diary.load(DataConfig(diary=HARD), "train", 0)[0]
    lines = [line for chunk in episode.chunks for line in chunk.text.splitlines()]
    again = [line.removeprefix("again ") for line in lines if line.startswith("again ")]
    assert len(again) == 11 and all(line in lines or f"now {line}" in lines for line in again)
    attributes = [q.text.split()[-1] for chunk in episode.chunks for q in chunk.questions if q.kind == "fact"]
    assert len(set(attributes)) < len(attributes)


def test_the_long_diary_holds_less_than_is_read():
    cfg = load_config("configs/diary_long.py", [])
    episode = diary.load(cfg.data, "train", 0)[0]
    assert 12 <= len(episode.chunks) <= 32
    words = sum(len(chunk.text.split()) for chunk in episode.chunks)
    assert cfg.memory.max_tokens < words / 3  # a word is at least a token


def test_more_facts_than_there_are_attributes_are_refused():
    cfg = DataConfig(diary=dataclasses.replace(DiaryConfig(), chunks=20, facts=4))
    with pytest.raises(UserError, match=r"config.data.diary.facts \* chunks = 80"):
        diary.load(cfg, "train", 0)
    cfg = DataConfig(diary=dataclasses.replace(HARD, chunks=20))
    with pytest.raises(UserError, match=r"\(facts \+ silent \+ passing\) \* chunks = 80: an episode has at most 64"):
        diary.load(cfg, "train", 0)
