"""Which process makes which groups."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finemem_jax.config import Config, UserError
from finemem_jax.nn.blockwise import PREFIX
from finemem_jax.rollouts.groups import (
    check_groups,
    check_prefixes,
    lent,
    mini_batches,
    own_groups,
    pack_groups,
    rows_of,
    share_groups,
)
from finemem_jax.rollouts.packing import Lengths, TrainSequence, lay_out
from finemem_jax.types import Rollout
from tests import fakes


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


def written(prompts: list[list[int]], sample: int) -> Rollout:
    """A rollout whose turns read these prompts and write two tokens each."""
    rollout = fakes.rollout([["a"]] * len(prompts), sample=sample)
    steps = [dataclasses.replace(s, prompt_tokens=tuple(p)) for s, p in zip(rollout.steps, prompts, strict=True)]
    return dataclasses.replace(rollout, steps=tuple(steps))


def test_the_turns_of_a_group_at_one_index_stand_behind_what_they_share(env):
    """Two groups whose numbers of turns differ; at the last index of the first only one sample has a turn."""
    own = {
        0: [written([[7, 7, 8], [5, 5, 5, 1], [9, 9]], 0), written([[7, 7, 9], [5, 5, 5, 2]], 1)],
        1: [written([[4, 4, 4]], 0), written([[4, 4, 4]], 1)],
    }
    sizes = {"max_prompt_tokens": 8, "max_completion_tokens": 4}
    cfg = Config(
        prompt=dataclasses.replace(Config().prompt, **sizes),
        train=dataclasses.replace(Config().train, episodes=2, microbatch_rows=1, row_tokens=24),
    )
    advantages = [[np.arange(1.0, 1 + len(r.steps)) + 10 * g + 3 * s for s, r in enumerate(own[g])] for g in own]

    def seen(share_prefixes: bool) -> tuple[set, int]:
        _, lengths = share_groups(own, env, share_prefixes=share_prefixes)
        packed, _ = pack_groups([0, 1], own, lengths, advantages, cfg)
        rows = [x.reshape(-1, 24) for x in (packed.segment_ids, packed.tokens, packed.advantages)]
        found = set()
        for ids, tokens, values in zip(*rows, strict=True):
            for segment in set(ids[ids > 0].tolist()) - set((ids // PREFIX).tolist()):
                where = (ids == segment) | ((ids == segment // PREFIX) & (segment >= PREFIX))
                found.add((tuple(tokens[where].tolist()), float(values[ids == segment][0])))
        return found, int((packed.segment_ids > 0).sum())

    apart, together = seen(False), seen(True)
    assert len(apart[0]) == 7 and together[0] == apart[0]
    assert apart[1] - together[1] == 2 + 3 + 2  # of [7 7], [5 5 5] and [4 4]: a token of its own is left to each


def test_rows_of_shared_prefixes_are_refused_where_no_attention_reads_them():
    cfg = Config(train=dataclasses.replace(Config().train, share_prefixes=True))
    check_prefixes(cfg, "cpu")
    check_prefixes(Config(), "tpu")
    with pytest.raises(UserError, match=r"config\.train\.share_prefixes=True: .* tpu"):
        check_prefixes(cfg, "tpu")
