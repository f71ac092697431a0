"""Which process makes which groups."""

from __future__ import annotations

import dataclasses

import pytest

from finemem_jax.config import Config, UserError
from finemem_jax.groups import check_groups, mini_batches, own_groups


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
