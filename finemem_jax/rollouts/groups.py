"""The groups of a step: which process makes which, what all processes know of them, and each one's rows.

Each process makes the rollouts of whole groups and keeps their tokens. Everything else about them is told to all, so
that rewards, advantages, metrics and the layout of a mini-batch come out alike in every process.
"""

from __future__ import annotations

import dataclasses
import random
import types
from collections.abc import Mapping, Sequence

import numpy as np

from finemem_jax.config import Config, UserError
from finemem_jax.env.environment import Environment
from finemem_jax.env.turns import adapter_of
from finemem_jax.hosts import agreement
from finemem_jax.nn.fast_weights import Memory
from finemem_jax.rollouts import packing
from finemem_jax.rollouts.packing import Lengths, TrainSequence, Weighted
from finemem_jax.types import Rollout, Step

StepLengths = dict[int, list[list[Lengths]]]
"""Of a process: for each of its groups the lengths of the sequences, [samples][turns]."""

NO_MEMORIES: Mapping[int, Memory] = types.MappingProxyType({})

Advantages = Sequence[Sequence[np.ndarray]]
"""For every group, for every sample, [turns]; NaN: not trained on."""


def mini_batches(cfg: Config, step: int, groups: int) -> list[list[int]]:
    """Which groups go into which update: whole groups, another order in every pass."""
    size = groups // cfg.train.mini_batches
    chosen = []
    for epoch in range(cfg.train.epochs):
        order = random.Random(f"mini-batches {cfg.seed} {step} {epoch}").sample(range(groups), groups)
        chosen += [order[start : start + size] for start in range(0, groups, size)]
    return chosen


def check_groups(cfg: Config, processes: int) -> None:
    """Raises UserError when there are fewer groups than processes."""
    if cfg.train.episodes < processes:
        raise UserError(
            f"config.train.episodes={cfg.train.episodes} leaves some of the {processes} processes without a group, and "
            "each owns whole groups: raise it, or start fewer processes"
        )


def check_prefixes(cfg: Config, platform: str) -> None:
    """Raises UserError where rows of shared prefixes are asked for and the platform's attention cannot read them."""
    if cfg.train.share_prefixes and platform != "cpu":
        raise UserError(
            f"config.train.share_prefixes=True: the attention of a {platform} reads no row with shared prefixes; "
            "leave it False there"
        )


def own_groups(cfg: Config, step: int, process: int, processes: int, numbers: range | None = None) -> list[int]:
    """The groups of a step whose rollouts this process makes: dealt out in the order of the first pass's
    mini-batches, so that each process has its share of each.

    numbers: of the groups that are dealt out, when they are not the first `train.episodes`; then in their order."""
    if numbers is not None and numbers.start:
        return list(numbers[process::processes])
    size = cfg.train.episodes // cfg.train.mini_batches
    dealt = [g for batch in mini_batches(cfg, step, cfg.train.episodes)[: cfg.train.episodes // size] for g in batch]
    return sorted(dealt[process::processes])


def share_groups(
    own: dict[int, list[Rollout]], env: Environment, *, share_prefixes: bool = False
) -> tuple[list[list[Rollout]], list[StepLengths]]:
    """The groups of all processes, in order, and for each process the lengths of its sequences, by group.

    With several processes they have no prompt tokens and no log-probabilities: only their owner needs those.
    share_prefixes: turns of one index are a family, which begins with what all of their prompts begin with.
    """
    lengths = {number: _lengths(number, group, share_prefixes) for number, group in own.items()}
    groups = own
    if agreement.process_count() > 1:
        told = {number: [_without_tokens(rollout) for rollout in group] for number, group in own.items()}
        groups = agreement.union(told, shared=(env.count_tokens,))
    return list(groups.values()), agreement.all_gather(lengths)


def joined(lengths: Sequence[StepLengths], more: Sequence[StepLengths]) -> list[StepLengths]:
    """The lengths of the groups of both, for each process."""
    return [own | further for own, further in zip(lengths or [{} for _ in more], more, strict=True)]


def _lengths(number: int, group: Sequence[Rollout], share_prefixes: bool) -> list[list[Lengths]]:
    longest = max((len(rollout.steps) for rollout in group), default=0)
    shared = [0] * longest
    if share_prefixes:
        for t in range(longest):
            there = [rollout.steps[t] for rollout in group if t < len(rollout.steps)]
            # Else the same tokens are not the same states: roles may have adapters of their own.
            if not any(step.fast for step in there) and len({step.role for step in there}) == 1:
                shared[t] = common_prefix([step.prompt_tokens for step in there])
    return [
        [
            Lengths(
                len(step.prompt_tokens),
                len(step.completion.tokens),
                family=(number << 20) + t if shared[t] else -1,
                shared=shared[t],
                fast=step.fast,
            )
            for t, step in enumerate(rollout.steps)
        ]
        for rollout in group
    ]


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """With how many tokens all of two or more prompts begin; at least one of each is left over, from which its
    completion goes on. 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    first, *_, last = sorted(map(tuple, prompts))  # in the order of their tokens, what these two share all share
    most = min(len(prompt) for prompt in prompts) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def _without_tokens(rollout: Rollout) -> Rollout:
    steps = [
        dataclasses.replace(step, prompt_tokens=(), completion=dataclasses.replace(step.completion, logprobs=()))
        for step in rollout.steps
    ]
    return dataclasses.replace(rollout, steps=tuple(steps))


def pack_groups(
    chosen: Sequence[int],
    own: dict[int, list[Rollout]],
    lengths: Sequence[StepLengths],
    advantages: Advantages,
    cfg: Config,
    memories: Mapping[int, Memory] = NO_MEMORIES,
    no_memory: Memory | None = None,
) -> tuple[packing.PackedRows, float]:
    """This process's rows of the mini-batch of the `chosen` groups, and the padding share of all processes' rows.

    memories: this process's fast weights, by number. no_memory: B of zeros, in a run with fast weights.

    Every turn of every rollout is one sequence with the advantage of that turn.
    lengths: what `share_groups` gave, of all processes: the layout is the same in all.
    """
    me = agreement.process_index()
    made = [
        (_sequence(step, lengths[me][g][s][t], memories.get(step.fast), cfg.model.lora.roles), advantages[g][s][t])
        for g in chosen
        for s, rollout in enumerate(own.get(g, ()))
        for t, step in enumerate(rollout.steps)
        if not np.isnan(advantages[g][s][t])
    ]
    layout = packing.lay_out(
        [_counted(chosen, theirs, advantages) for theirs in lengths],
        packing.longest_row(cfg),
        row_tokens=cfg.train.row_tokens,
        microbatch_rows=cfg.train.microbatch_rows,
        multiple=cfg.mesh.sequence,
    )
    rows = rows_of(layout, me, made, agreement.all_gather(lent(layout, me, made)))
    packed = packing.pack_layout(rows, layout, cfg.loss, cfg.train.microbatch_rows, no_memory)
    return packed, layout.padding_share


def _sequence(step: Step, lengths: Lengths, memory: Memory | None, roles: Sequence[str]) -> TrainSequence:
    done, number = step.completion, adapter_of(step.role, roles)
    return TrainSequence(
        step.prompt_tokens, done.tokens, done.logprobs, lengths.family, lengths.shared, step.fast, memory, number
    )


def lent(layout: packing.Layout, process: int, made: Sequence[Weighted]) -> dict[int, Weighted]:
    """What others need of what `process` made: the sequences of its rows that they pack, by index."""
    return {
        index: made[index]
        for packer, rows in enumerate(layout.rows)
        for row in rows
        for index in row.members
        if row.owner == process != packer
    }


def rows_of(
    layout: packing.Layout, process: int, made: Sequence[Weighted], borrowed: Sequence[dict[int, Weighted]]
) -> list[list[Weighted]]:
    """The rows that `process` packs, from what it made and from what each process has lent."""
    return [
        [made[index] if row.owner == process else borrowed[row.owner][index] for index in row.members]
        for row in layout.rows[process]
    ]


def _counted(chosen: Sequence[int], lengths: StepLengths, advantages: Advantages) -> list[Lengths]:
    """Of a process's sequences in the chosen groups, those that have an advantage."""
    return [
        length
        for g in chosen
        for s, steps in enumerate(lengths.get(g, ()))
        for t, length in enumerate(steps)
        if not np.isnan(advantages[g][s][t])
    ]
