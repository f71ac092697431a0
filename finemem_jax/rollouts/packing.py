"""Sequences and their advantages -> packed numpy rows -> a RolloutBatch on the devices.

One sequence is one (rollout, step): a prompt and its completion. Here the loss aggregation becomes weights of
single tokens, so that the device only sums. Deterministic: the same sequences give the same rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from finemem_jax.config import Config, LossConfig, UserError
from finemem_jax.nn.blockwise import PREFIX
from finemem_jax.nn.fast_weights import Memory
from finemem_jax.nn.mesh import ROWS, SEQUENCE
from finemem_jax.rl.batch import RolloutBatch


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """A prompt, the completion sampled for it, and the sampler's log-probabilities of the completion."""

    prompt: Sequence[int]
    completion: Sequence[int]
    logprobs: Sequence[float]  # one per completion token
    family: int = -1  # sequences of one process with the same number begin alike; -1: with none
    shared: int = 0  # by so many tokens of their prompts, less than the shortest of these
    fast: int = 0  # number of the fast weights it was sampled under, of its process; 0 = none
    memory: Memory | None = None  # these
    adapter: int = 0  # number of the adapter it was sampled with; one for a whole family

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the loss is divided by. Over several hosts: the sum of theirs."""

    tokens: int = 0  # completion tokens of the sequences that count
    sequences: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.tokens + other.tokens, self.sequences + other.sequences)


@dataclass(frozen=True, slots=True)
class PackedRows:
    """A mini-batch as numpy arrays, all [microbatches, rows, seq]; the fields are those of RolloutBatch."""

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    old_logprobs: np.ndarray
    token_weights: np.ndarray
    advantages: np.ndarray
    adapter: np.ndarray
    used_rows: int  # rows that hold a sequence
    fast: Memory | None = None  # [microbatches, rows, layers, rank, out]; None in a run without fast weights

    @property
    def padding_share(self) -> float:
        """Share of the positions that are computed and hold no token: microbatches of padding alone never run."""
        micro_rows, seq = self.tokens.shape[1:]
        computed = -(-self.used_rows // micro_rows) * micro_rows * seq
        return 1.0 - int((self.segment_ids > 0).sum()) / computed if computed else 0.0


def count_totals(sequences: Sequence[TrainSequence], advantages: np.ndarray) -> Totals:
    """Denominators of the loss. A sequence without advantage (NaN) does not count."""
    counted = [len(s.completion) for s, a in zip(sequences, advantages, strict=True) if not np.isnan(a)]
    return Totals(sum(counted), sum(1 for length in counted if length))


def pack_rollouts(
    sequences: Sequence[TrainSequence],
    advantages: np.ndarray,
    cfg: LossConfig,
    *,
    row_tokens: int,
    microbatch_rows: int,
    rows: Sequence[Sequence[int]] | None = None,
    totals: Totals | None = None,
    min_microbatches: int = 1,
    no_memory: Memory | None = None,
) -> PackedRows:
    """Rows of `row_tokens` tokens, each holding as many whole sequences as fit; the longest are placed first. All
    sequences of a row were sampled under the same fast weights.

    advantages: [sequences], NaN for a sequence that has none (its group was left out): it is not packed.
    rows: which of the sequences stand in which row, where that was settled before; then all have an advantage, and
    what neighbours of one family share stands there once, before them.
    totals: denominators over all hosts; those of the given sequences when None.
    The number of microbatches is rounded up to a power of two, at least `min_microbatches` (the largest of any
    host), so that a run compiles for a few shapes only; microbatches of padding alone are not computed.
    no_memory: B of zeros, in a run with fast weights.
    """
    advantages = np.asarray(advantages, np.float32)
    totals = totals or count_totals(sequences, advantages)
    if rows is None:
        kept = [index for index in range(len(sequences)) if not np.isnan(advantages[index])]
        lengths = [
            Lengths(len(sequences[i].prompt), len(sequences[i].completion), fast=sequences[i].fast) for i in kept
        ]
        rows = [[kept[member] for member in members] for members in rows_of_lengths(lengths, row_tokens)]
    microbatches = _power_of_two(max(-(-len(rows) // microbatch_rows), min_microbatches, 1))

    shape = (microbatches * microbatch_rows, row_tokens)
    tokens, positions, segment_ids, adapter = (np.zeros(shape, np.int32) for _ in range(4))
    old_logprobs, token_weights, row_advantages = (np.zeros(shape, np.float32) for _ in range(3))
    for row, members in enumerate(rows):
        start, segment, prefix, family = 0, 0, 0, -1
        for member in members:
            sequence, advantage = sequences[member], advantages[member]
            if sequence.family != family or family < 0:
                family, prefix = sequence.family, 0
                if sequence.shared:
                    end = start + sequence.shared
                    prefix = segment = segment + 1
                    tokens[row, start:end] = sequence.prompt[: sequence.shared]
                    positions[row, start:end] = np.arange(sequence.shared)
                    segment_ids[row, start:end] = prefix
                    adapter[row, start:end] = sequence.adapter
                    start = end
            segment += 1
            own = sequence.prompt[sequence.shared :]
            middle = start + len(own)
            end = middle + len(sequence.completion)
            tokens[row, start:middle] = own
            tokens[row, middle:end] = sequence.completion
            positions[row, start:end] = sequence.shared + np.arange(end - start)
            segment_ids[row, start:end] = segment + prefix * PREFIX
            old_logprobs[row, middle:end] = sequence.logprobs
            token_weights[row, middle:end] = token_weight(len(sequence.completion), totals, cfg)
            row_advantages[row, start:end] = advantage
            adapter[row, start:end] = sequence.adapter
            start = end

    def split(array: np.ndarray) -> np.ndarray:
        return array.reshape(microbatches, microbatch_rows, *array.shape[1:])

    fast = None
    if no_memory is not None:
        fast = {name: np.zeros((shape[0], *zeros.shape), np.float32) for name, zeros in no_memory.items()}
        for row, members in enumerate(rows):
            if len({sequences[member].fast for member in members}) > 1:
                raise ValueError("a row holds sequences that were sampled under different fast weights")
            for name, own in (sequences[members[0]].memory or {}).items():
                fast[name][row] = own
        fast = {name: split(own) for name, own in fast.items()}

    return PackedRows(
        tokens=split(tokens),
        positions=split(positions),
        segment_ids=split(segment_ids),
        old_logprobs=split(old_logprobs),
        token_weights=split(token_weights),
        advantages=split(row_advantages),
        adapter=split(adapter),
        used_rows=len(rows),
        fast=fast,
    )


Weighted = tuple[TrainSequence, float]
"""A sequence and its advantage."""


def pack_layout(
    rows: Sequence[Sequence[Weighted]],
    layout: Layout,
    cfg: LossConfig,
    microbatch_rows: int,
    no_memory: Memory | None = None,
) -> PackedRows:
    """The rows that a process packs of a layout, which says how large the batch is everywhere."""
    members = [member for row in rows for member in row]
    ends = np.cumsum([0, *map(len, rows)])
    return pack_rollouts(
        [sequence for sequence, _ in members],
        np.array([advantage for _, advantage in members], np.float32),
        cfg,
        rows=[range(start, end) for start, end in itertools.pairwise(ends)],
        row_tokens=layout.row_tokens,
        microbatch_rows=microbatch_rows,
        totals=layout.totals,
        min_microbatches=layout.microbatches,
        no_memory=no_memory,
    )


def longest_row(cfg: Config) -> int:
    """Tokens of the longest row that there can be, before it is lengthened to split over the mesh axis sequence."""
    return cfg.train.row_tokens or cfg.prompt.max_prompt_tokens + cfg.prompt.max_completion_tokens


def token_weight(length: int, totals: Totals, cfg: LossConfig) -> float:
    """Weight in the loss of each token of a completion of `length` tokens.

    token_mean: 1 / all tokens. sequence_mean: 1 / (sequences * length). constant: 1 / (sequences * constant_length).
    """
    if not length:
        return 0.0
    if cfg.aggregation == "token_mean":
        return 1.0 / totals.tokens
    if cfg.aggregation == "sequence_mean":
        return 1.0 / (totals.sequences * length)
    if cfg.aggregation == "constant":
        return 1.0 / (totals.sequences * cfg.constant_length)
    raise ValueError(f"loss.aggregation={cfg.aggregation!r}: allowed are token_mean, sequence_mean, constant")


def assign_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """First-fit decreasing: for each row the indices of the sequences in it."""
    longest = max(lengths, default=0)
    if longest > row_tokens:
        raise UserError(
            f"a sequence of {longest} tokens does not fit a row of {row_tokens}: raise config.train.row_tokens, or "
            "lower config.prompt.max_prompt_tokens or config.prompt.max_completion_tokens"
        )
    rows: list[list[int]] = []
    free = np.zeros(len(lengths), np.int64)  # tokens left in each row opened so far
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = np.flatnonzero(free[: len(rows)] >= lengths[index])
        row = int(fitting[0]) if len(fitting) else len(rows)
        if row == len(rows):
            rows.append([])
            free[row] = row_tokens
        rows[row].append(index)
        free[row] -= lengths[index]
    return rows


@dataclass(frozen=True, slots=True)
class Layout:
    """What all processes agree on for a mini-batch: the same static shape and the same denominators everywhere."""

    row_tokens: int
    microbatches: int  # of every process: some have rows of padding in the last one
    rows: tuple[tuple[Row, ...], ...]  # [processes][rows]: what each packs
    totals: Totals
    padding_share: float  # share of the positions computed in all processes that hold no token


@dataclass(frozen=True, slots=True)
class Row:
    """The sequences of a row: which, of those that process `owner` made."""

    owner: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """A sequence as the layout sees it: tokens of its prompt and of its completion."""

    prompt: int
    completion: int
    family: int = -1  # as in TrainSequence
    shared: int = 0
    fast: int = 0

    def __len__(self) -> int:
        return self.prompt + self.completion


def lay_out(
    by_process: Sequence[Sequence[Lengths]], longest: int, *, row_tokens: int, microbatch_rows: int, multiple: int = 1
) -> Layout:
    """The layout of a mini-batch whose sequences lie in several processes: a function of all their lengths.

    Each process packs what it made; rows beyond its share of all rows are packed by others, so that none waits for
    the one whose episodes happened to be the longest.
    Sequences without an advantage are left out of `by_process`, for they are not packed.
    longest: upper bound of a sequence, tokens. row_tokens: 0 = chosen for the least padding. multiple: rows are
    lengthened to one, so that they split over the mesh axis sequence.
    """
    row_tokens = row_tokens or choose_row_tokens(by_process, longest, microbatch_rows)
    row_tokens = -(-row_tokens // multiple) * multiple
    rows = [
        [Row(process, tuple(members)) for members in rows_of_lengths(own, row_tokens)]
        for process, own in enumerate(by_process)
    ]
    held = sum(held_tokens(row.members, by_process[row.owner]) for own in rows for row in own)
    microbatches = -(-sum(map(len, rows)) // (microbatch_rows * len(rows)))
    rows = balance(rows, microbatches * microbatch_rows)
    computed = microbatches * microbatch_rows * len(by_process) * row_tokens
    completions = [sequence.completion for own in by_process for sequence in own]
    return Layout(
        row_tokens,
        microbatches,
        tuple(map(tuple, rows)),
        Totals(sum(completions), sum(1 for length in completions if length)),
        1.0 - held / computed if computed else 0.0,
    )


def balance(rows: Sequence[list[Row]], most: int) -> list[list[Row]]:
    """The rows of each process, at most `most`: its own, and the last ones of those that have more.

    The last rows hold the least, and so the fewest tokens are sent.
    """
    surplus = [row for own in rows for row in own[most:]]
    balanced = []
    for own in rows:
        room = most - len(own[:most])
        balanced.append([*own[:most], *surplus[:room]])
        surplus = surplus[room:]
    return balanced


def choose_row_tokens(by_process: Sequence[Sequence[Lengths]], most: int, microbatch_rows: int) -> int:
    """Length of the rows, `most` or 3/4 or 1/2 of it, for which the fewest positions are computed; ties: shorter.
    Where sequences share what they begin with, also 2 and 4 times these: whole families find room in a row.

    Attention costs the square of a row's length, and sequences just over half a row leave the other half empty.
    Each length that is ever chosen costs a compilation.
    """
    best, least = most, math.inf
    lengths = {most, -(-most * 3 // 4), -(-most // 2)}
    if any(sequence.shared for own in by_process for sequence in own):
        lengths |= {times * length for length in lengths for times in (2, 4)}
    longest = max((len(sequence) for own in by_process for sequence in own), default=0)
    for row_tokens in sorted(lengths):
        if longest <= row_tokens:
            rows = sum(len(rows_of_lengths(own, row_tokens)) for own in by_process)
            microbatches = -(-rows // (microbatch_rows * len(by_process)))
            if microbatches * row_tokens < least:
                best, least = row_tokens, microbatches * row_tokens
    return best


def rows_of_lengths(own: Sequence[Lengths], row_tokens: int) -> list[list[int]]:
    """For each row the indices of the sequences in it; those of one family are neighbours, and those that were sampled
    under different fast weights are never in one row."""
    if len({sequence.fast for sequence in own}) > 1:
        alike: dict[int, list[int]] = {}
        for index, sequence in enumerate(own):
            alike.setdefault(sequence.fast, []).append(index)
        found = []
        for members in alike.values():
            rows = rows_of_lengths([own[index] for index in members], row_tokens)
            found += [[members[index] for index in row] for row in rows]
        return found
    if not any(sequence.shared for sequence in own):
        return assign_rows([len(sequence) for sequence in own], row_tokens)
    families: dict[int, list[int]] = {}
    for index, sequence in enumerate(own):
        families.setdefault(sequence.family if sequence.family >= 0 else -1 - index, []).append(index)
    # A family that is longer than a row is cut into parts, each with a copy of what they share.
    parts: list[list[int]] = []
    for members in families.values():
        parts.append([])
        for index in sorted(members, key=lambda index: -len(own[index])):
            if parts[-1] and held_tokens([*parts[-1], index], own) > row_tokens:
                parts.append([])
            parts[-1].append(index)
    rows = assign_rows([held_tokens(part, own) for part in parts], row_tokens)
    return [[index for part in row for index in parts[part]] for row in rows]


def held_tokens(members: Sequence[int], own: Sequence[Lengths]) -> int:
    """Tokens that these sequences take in a row, neighbours of one family together."""
    total, family = 0, -1
    for index in members:
        sequence = own[index]
        is_first = sequence.family != family or family < 0
        family = sequence.family
        total += len(sequence) - (0 if is_first else sequence.shared)
    return total


def to_device(packed: PackedRows, mesh: Mesh | None = None, *, roles: Sequence[str] = ()) -> RolloutBatch:
    """The batch on the devices, its rows split over the mesh axes data and fsdp, their tokens over sequence; without
    a reference yet. roles: those that have adapters of their own; without any, nothing is said of adapters.

    Over several hosts each gives its own rows of every microbatch; the global microbatch holds them all.
    """

    def place(array: np.ndarray) -> jax.Array:
        if mesh is None:
            return jax.device_put(array)
        sharding = NamedSharding(mesh, PartitionSpec(None, ROWS, SEQUENCE))
        return jax.make_array_from_process_local_data(sharding, array)

    def place_fast(array: np.ndarray) -> jax.Array:
        if mesh is None:
            return jax.device_put(array)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(None, ROWS)), array)

    if mesh is not None:
        check_rows(mesh, packed.tokens.shape[1], jax.process_count())
    return RolloutBatch(
        tokens=place(packed.tokens),
        positions=place(packed.positions),
        segment_ids=place(packed.segment_ids),
        old_logprobs=place(packed.old_logprobs),
        ref_logprobs=None,
        token_weights=place(packed.token_weights),
        advantages=place(packed.advantages),
        fast=jax.tree.map(place_fast, packed.fast),
        adapter=place(packed.adapter) if roles else None,
    )


def check_rows(mesh: Mesh | AbstractMesh, microbatch_rows: int, processes: int) -> None:
    """Raises UserError, the same in every process, when rows of a microbatch cannot be laid out over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if ways % processes:
        raise UserError(
            f"mesh axes data * fsdp = {ways} do not split over {processes} processes, each of which holds rows of its "
            f"own: make config.mesh.data * config.mesh.fsdp a multiple of {processes} (config.mesh.tensor * "
            "config.mesh.sequence at most the devices of one process)"
        )
    if microbatch_rows * processes % ways:
        raise UserError(
            f"{microbatch_rows * processes} rows of a microbatch (config.train.microbatch_rows={microbatch_rows} in "
            f"each of {processes} processes) do not split over mesh axes data * fsdp = {ways}: make "
            f"config.train.microbatch_rows a multiple of {ways // processes}"
        )


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
