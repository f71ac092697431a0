"""What becomes of groups without spread, and episodes that grow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax.benchmarks import diary
from finemem_jax.config import Config, DataConfig, TrainConfig
from finemem_jax.env.episodes import chunks_at, cut_episode
from finemem_jax.rollouts.groups import joined, own_groups
from finemem_jax.rollouts.resample import is_live, still_wanted, trained_groups
from finemem_jax.types import Chunk, Episode, Question

LIVE, DEAD, LOST = ([np.array([a, 0.0]), np.array([-a, np.nan])] for a in (0.5, 0.0, np.nan))


def settings(resample, most=32):
    return TrainConfig(episodes=4, resample=resample, resample_most=most)


def test_a_group_is_live_where_any_turn_has_an_advantage():
    assert is_live(LIVE) and not is_live(DEAD) and not is_live(LOST)


@pytest.mark.parametrize(
    ("resample", "drawn", "wanted", "trained"),
    [
        ("keep", [DEAD, LIVE, DEAD, LIVE], 0, [0, 1, 2, 3]),
        ("drop", [DEAD, LIVE, DEAD, LIVE], 0, [None, 1, None, 3]),
        ("refill", [DEAD, LIVE, LOST, LIVE], 2, [None, 1, None, 3]),
        ("refill", [DEAD, LIVE, DEAD, LIVE, DEAD, LIVE], 1, [5, 1, None, 3]),
        ("refill", [DEAD, LIVE, DEAD, LIVE, DEAD, LIVE, LIVE], 0, [5, 1, 6, 3]),
        ("refill", [LIVE] * 4, 0, [0, 1, 2, 3]),
    ],
)
def test_dead_groups_are_kept_dropped_or_replaced_in_their_place(resample, drawn, wanted, trained):
    cfg = settings(resample)
    assert still_wanted(cfg, drawn) == wanted and trained_groups(cfg, drawn) == trained


def test_refilling_ends_at_its_bound():
    drawn = [DEAD] * 4
    while wanted := still_wanted(settings("refill", most=6), drawn):
        drawn += [DEAD] * wanted
    assert len(drawn) == 10


def test_further_groups_have_one_owner_each():
    cfg = Config(train=dataclasses.replace(settings("refill"), mini_batches=2))
    shares = [own_groups(cfg, 3, process, 3, range(4, 9)) for process in range(3)]
    assert sorted(g for share in shares for g in share) == [4, 5, 6, 7, 8]
    assert joined([], [{0: "a"}, {}]) == [{0: "a"}, {}]
    assert joined([{0: "a"}, {1: "b"}], [{}, {4: "c"}]) == [{0: "a"}, {1: "b", 4: "c"}]


def test_a_curriculum_gives_each_length_its_share_of_the_run():
    assert [chunks_at((2, 4, 8), step / 7) for step in range(8)] == [2, 2, 2, 4, 4, 8, 8, 8]
    assert chunks_at((2, 4), 9 / 7) == 4  # a run that is made longer afterwards
    assert chunks_at((), 0.5) == 0


def test_a_shorter_diary_is_the_beginning_of_the_long_one_asked_about_as_it_stands_then():
    train = diary.load(DataConfig(diary=dataclasses.replace(DataConfig().diary, chunks=8, changes=2)), "train", 0)
    seen = 0
    for index in range(20):
        whole, short = train[index], cut_episode(train, index, 3)
        assert short.chunks == whole.chunks[:3] and short.id == f"{whole.id}:3"
        lines = [line for chunk in short.chunks for line in chunk.text.splitlines()]
        for question in short.questions:
            if question.kind != "label":
                subject = question.text.removeprefix("what is ").removesuffix("?").replace("'s ", " ")
                last = [line for line in lines if line.endswith(subject)][-1]
                assert last.removeprefix("now ") == f"{question.answers[0]} {subject}"
                seen += 1
        assert cut_episode(train, index, 8) == cut_episode(train, index, 99) == cut_episode(train, index, 0) == whole
    assert seen > 60


def test_of_other_episodes_the_questions_are_kept_whose_evidence_is_left():
    questions = tuple(Question(str(e), ("x",), evidence=e) for e in ((0,), (1, 2), (3,), ()))
    episode = Episode("e", "s", tuple(Chunk(str(i), i) for i in range(5)), questions)
    short = cut_episode((episode,), 0, 3)
    assert (short.id, len(short.chunks), [q.text for q in short.questions]) == ("e:3", 3, ["(0,)", "(1, 2)"])
    late = dataclasses.replace(episode, questions=questions[2:])
    assert len(cut_episode((late,), 0, 2).chunks) == 4  # the first question that can be answered
    unknown = dataclasses.replace(episode, questions=questions[3:])
    assert cut_episode((unknown,), 0, 2) == unknown
