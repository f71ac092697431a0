"""Which process makes which groups."""

from __future__ import annotations

import dataclasses

import pytest

from finemem_jax.config import Config, UserError
from finemem_jax.rollouts.groups import check_groups, lent, mini_batches, own_groups, rows_of
from finemem_jax.rollouts.packing import Lengths, TrainSequence, lay_out


def config(episodes: int, mini: int) -> Config:
    return Config(train=dataclasses.replace(Config().train, episodes=episodes, mini_batches=mini))


@pytest.mark.parametrize(("episodes", "mini", "processes"), [(8, 4, 2), (12, 3, 4), (7, 1, 3), (4, 4, 2)])
def test_every_group_has_one_owner_and_every_mini_batch_is_shared_out(episodes, mini, processes):
    cfg = config(episodes, mini)
    shares = [set(own_groups(cfg, 3, process, processes)) for process in range(processes)]
    assert sorted(group for share in shares for group in share) == list(range(episodes))
    for chosen in mini_batches(cfg, 3, episodes):
        counts = [len(share.intersection(chosen)) for share in shares]
        assert max(counts) - min(counts) <= 1


def test_fewer_groups_than_processes_are_refused_with_the_knob():
    check_groups(config(4, 1), 4)
    with pytest.raises(UserError, match=r"config\.train\.episodes=3"):
        check_groups(config(3, 1), 4)


def test_rows_that_are_packed_elsewhere_arrive_with_their_tokens():
    lengths = [[5, 3, 4, 4, 5], [2], [4, 4]]
    made = [
        [(TrainSequence([process] * n, [index], [0.0]), process + index / 8) for index, n in enumerate(own)]
        for process, own in enumerate(lengths)
    ]
    layout = lay_out([[Lengths(n, 1) for n in own] for own in lengths], 6, row_tokens=6, microbatch_rows=1)
    told = [lent(layout, process, own) for process, own in enumerate(made)]
    assert [len(sequences) for sequences in told] == [2, 0, 0]  # of eight rows each packs at most three
    rows = [rows_of(layout, process, made[process], told) for process in range(3)]
    assert [len(own) for own in rows] == [3, 3, 2]
    found = sorted((value, s.prompt, s.completion) for own in rows for row in own for s, value in row)
    assert found == sorted((value, s.prompt, s.completion) for own in made for s, value in own)
