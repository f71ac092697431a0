"""The stream of training episodes: fixed by its seed, divided without loss, resumed where it stood."""

import pytest

from finemem_jax.env.episodes import EpisodeStream, drawn_evenly, left_out, stream_indices
from tests import fakes

EPISODES = [f"episode {i}" for i in range(7)]


def taken(stream, takes, count):
    seen = []
    for _ in range(takes):
        got, stream = stream.take(count)
        seen += got
    return seen, stream


def test_every_epoch_shows_each_episode_once_in_an_order_of_its_own():
    seen, _ = taken(EpisodeStream(EPISODES, seed=3), 7, 3)
    epochs = [seen[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == EPISODES for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert taken(EpisodeStream(EPISODES, seed=3), 7, 3)[0] == seen != taken(EpisodeStream(EPISODES, seed=4), 7, 3)[0]


def test_shards_together_take_what_one_takes_alone():
    alone, _ = taken(EpisodeStream(EPISODES, seed=0), 4, 6)
    shards = [EpisodeStream(EPISODES, seed=0, shard=i, shards=3) for i in range(3)]
    together = []
    for _ in range(4):
        for i, stream in enumerate(shards):
            got, shards[i] = stream.take(2)
            together += got
    assert together == alone


def test_a_saved_position_goes_on_where_it_stood_whatever_the_number_of_shards():
    whole, _ = taken(EpisodeStream(EPISODES, seed=0), 4, 4)
    first, stopped = taken(EpisodeStream(EPISODES, seed=0), 2, 4)
    restored = EpisodeStream(EPISODES, seed=0, position=stopped.position)
    assert first + taken(restored, 2, 4)[0] == whole
    halves = [EpisodeStream(EPISODES, 0, i, 2, stopped.position).take(2)[0] for i in range(2)]
    assert halves[0] + halves[1] == whole[8:12]


def test_taking_leaves_the_stream_as_it_was():
    stream = EpisodeStream(EPISODES, seed=0)
    assert stream.take(3)[0] == stream.take(3)[0] and stream.position == 0


def test_positions_are_those_of_the_training_loop():
    from finemem_jax.rollouts import drawn_groups

    assert drawn_groups.episode_indices(7, 5, position=6, count=3) == stream_indices(7, 5, [6, 7, 8])


@pytest.mark.parametrize("fields", [{"shard": 2, "shards": 2}, {"position": -1}, {"episodes": []}])
def test_an_impossible_stream_is_refused(fields):
    with pytest.raises(ValueError, match="position"):
        EpisodeStream(**({"episodes": EPISODES, "seed": 0} | fields))


def sorted_by_source(**counts):
    return [fakes.episode([f"{source} {i}"], source=source) for source, count in counts.items() for i in range(count)]


def test_a_sample_stands_for_every_source_of_a_file_sorted_by_source():
    there = sorted_by_source(squad=40, hotpotqa=100, booksum=3)
    drawn = drawn_evenly(there, 15, seed=7)
    assert left_out(there, drawn) == "booksum 3 of 3, hotpotqa 6 of 100, squad 6 of 40"
    assert [there.index(episode) for episode in drawn] == sorted(there.index(episode) for episode in drawn)
    assert drawn == drawn_evenly(there, 15, seed=7) != drawn_evenly(there, 15, seed=8)
    assert drawn != there[:15]


def test_with_fewer_episodes_than_sources_each_has_one_at_most():
    there = sorted_by_source(a=5, b=5, c=5, d=5)
    drawn = drawn_evenly(there, 3, seed=0)
    assert len({episode.source for episode in drawn}) == 3
    assert len({tuple(e.source for e in drawn_evenly(there, 3, seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize("count", [0, 8, 9])
def test_all_episodes_stay_as_they_are(count):
    there = sorted_by_source(a=3, b=5)
    assert drawn_evenly(there, count, seed=0) == there
