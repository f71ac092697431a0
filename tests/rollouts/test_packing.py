"""Packing keeps every sequence whole, and its weights are the aggregations' formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from finemem_jax.config import LossConfig, UserError
from finemem_jax.nn.blockwise import PREFIX
from finemem_jax.rollouts.groups import common_prefix
from finemem_jax.rollouts.packing import (
    Lengths,
    Row,
    Totals,
    TrainSequence,
    assign_rows,
    check_rows,
    choose_row_tokens,
    count_totals,
    held_tokens,
    lay_out,
    pack_rollouts,
)


def random_sequences(seed, count=20, longest=60):
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(count):
        prompt, completion = rng.integers(1, longest // 2, size=2)
        sequences.append(
            TrainSequence(
                prompt=rng.integers(1, 512, size=prompt).tolist(),
                completion=tuple(rng.integers(1, 512, size=completion).tolist()),
                logprobs=rng.uniform(-5, 0, size=completion).tolist(),
            )
        )
    return sequences, rng.normal(size=count)


def unpack(packed):
    """Segments of all rows, as (tokens, positions, old_logprobs, token_weights, advantages)."""
    seq = packed.tokens.shape[-1]
    fields = ("tokens", "positions", "old_logprobs", "token_weights", "advantages")
    rows = [getattr(packed, name).reshape(-1, seq) for name in fields]
    for row, segments in enumerate(packed.segment_ids.reshape(-1, seq)):
        for segment in range(1, segments.max(initial=0) + 1):
            where = np.flatnonzero(segments == segment)
            assert (np.diff(where) == 1).all()
            yield tuple(values[row, where] for values in rows)


def test_every_sequence_comes_back_whole():
    sequences, advantages = random_sequences(0)
    packed = pack_rollouts(sequences, advantages, LossConfig(), row_tokens=64, microbatch_rows=3)
    assert packed.tokens.shape == (4, 3, 64)  # 3 microbatches would do: rounded up to a power of two
    found = {tuple(tokens.tolist()): rest for tokens, *rest in unpack(packed)}
    assert len(found) == len(sequences)
    for sequence, advantage in zip(sequences, advantages, strict=True):
        positions, old, weights, row_advantages = found[(*sequence.prompt, *sequence.completion)]
        prompt = len(sequence.prompt)
        assert positions.tolist() == list(range(len(sequence)))
        assert (old[:prompt] == 0).all() and (weights[:prompt] == 0).all() and (weights[prompt:] > 0).all()
        np.testing.assert_array_equal(old[prompt:], np.float32(sequence.logprobs))
        assert (row_advantages == np.float32(advantage)).all()
    empty = packed.segment_ids == 0
    for values in (packed.tokens, packed.positions, packed.old_logprobs, packed.token_weights, packed.advantages):
        assert (values[empty] == 0).all()


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_weights_equal_the_aggregation_written_as_loops(aggregation):
    sequences, advantages = random_sequences(1)
    advantages[[2, 5]] = np.nan  # groups that were left out
    cfg = LossConfig(aggregation=aggregation, constant_length=50)
    packed = pack_rollouts(sequences, advantages, cfg, row_tokens=64, microbatch_rows=4)
    # Give each completion token the value 10 * position and aggregate it both ways.
    found = sum(float((weights * 10 * positions).sum()) for _, positions, _, weights, _ in unpack(packed))
    kept = [s for s, a in zip(sequences, advantages, strict=True) if not math.isnan(a)]
    total, tokens = 0.0, 0
    for s in kept:
        values = [10 * t for t in range(len(s.prompt), len(s))]
        tokens += len(values)
        total += {
            "token_mean": sum(values),
            "sequence_mean": sum(values) / len(values),
            "constant": sum(values) / 50,
        }[aggregation]
    expected = total / (tokens if aggregation == "token_mean" else len(kept))
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(list(unpack(packed))) == len(kept) == 18


def test_hosts_that_share_totals_get_the_weights_of_one_host():
    sequences, advantages = random_sequences(2)
    cfg = LossConfig(aggregation="sequence_mean")

    def weights(part, totals=None, least=1):
        packed = pack_rollouts(
            sequences[part], advantages[part], cfg, row_tokens=64, microbatch_rows=2, totals=totals,
            min_microbatches=least,
        )  # fmt: skip
        return packed, {tuple(tokens.tolist()): weights.tolist() for tokens, _, _, weights, _ in unpack(packed)}

    first, second = slice(0, 5), slice(5, 20)
    totals = count_totals(sequences[first], advantages[first]) + count_totals(sequences[second], advantages[second])
    assert totals == count_totals(sequences, advantages) != Totals()
    second_packed, second_weights = weights(second, totals)
    first_packed, first_weights = weights(first, totals, least=second_packed.tokens.shape[0])
    assert first_packed.tokens.shape == second_packed.tokens.shape
    assert first_weights | second_weights == weights(slice(0, 20))[1]


def test_padding_share_counts_computed_microbatches_only():
    sequences = [TrainSequence([1] * 5, [2] * 5, [-1.0] * 5)] * 5  # three rows of 20, two sequences in two of them
    packed = pack_rollouts(sequences, np.ones(5), LossConfig(), row_tokens=20, microbatch_rows=1)
    assert packed.tokens.shape == (4, 1, 20) and packed.used_rows == 3
    assert packed.padding_share == pytest.approx(1 - 50 / 60)


def test_nothing_to_train_on_gives_padding_alone():
    sequences, advantages = random_sequences(3, count=2)
    packed = pack_rollouts(sequences, advantages * np.nan, LossConfig(), row_tokens=64, microbatch_rows=2)
    assert packed.tokens.shape == (1, 2, 64)
    assert packed.used_rows == 0 and not packed.segment_ids.any() and packed.padding_share == 0.0


def test_a_sequence_longer_than_a_row_names_the_knob():
    with pytest.raises(UserError, match=r"61 tokens .* row of 60: raise config\.train\.row_tokens"):
        assign_rows([10, 61], 60)


@given(st.lists(st.integers(1, 50), max_size=40))
def test_rows_hold_every_sequence_once_within_their_length(lengths):
    rows = assign_rows(lengths, 50)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 50 for row in rows)
    assert rows == assign_rows(lengths, 50)
    # First fit: no two rows could be joined.
    fills = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > 50


def test_padding_is_small_for_many_short_sequences():
    rng = np.random.default_rng(4)
    lengths = np.clip(rng.lognormal(6.0, 0.6, size=600), 64, 4000).astype(int).tolist()
    rows = assign_rows(lengths, 8192)
    assert 1 - sum(lengths) / (len(rows) * 8192) < 0.08


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([250] * 8, 288),  # one per row in any: the rows of 384 would hold 134 of padding each
        ([180] * 8, 192),  # two in 384 or one in 192: as many positions, half of the attention
        ([190, 190, 190, 194], 384),  # one is too long for 192; two fit a row of 384
        ([96] * 8, 192),
        ([384], 384),
        ([], 192),
    ],
)
def test_rows_are_as_short_as_their_padding_allows(lengths, expected):
    assert choose_row_tokens([[Lengths(length, 0) for length in lengths]], 384, microbatch_rows=1) == expected


# --------------------------------------------------------------------------------------------------------------
# Sequences that begin alike
# --------------------------------------------------------------------------------------------------------------


@st.composite
def families(draw):
    """Sequences of families that share 1 to 9 tokens, and some of none; their order is that of the groups."""
    sequences, number = [], 0
    for family in range(draw(st.integers(1, 5))):
        shared = draw(st.integers(0, 9))
        prefix = [1000 + family] * shared
        for _ in range(draw(st.integers(1, 6))):
            number += 1
            own = [number] * draw(st.integers(1, 5))
            completion = [100 + number] * draw(st.integers(0, 5))
            logprobs = [-number / 8] * len(completion)
            sequences.append(TrainSequence(prefix + own, completion, logprobs, family if shared else -1, shared))
    return sequences


@given(families(), st.sampled_from([0, 24, 40]), st.integers(1, 3))
def test_what_sequences_share_stands_before_them_once_and_each_is_whole(sequences, row_tokens, microbatch_rows):
    own = [Lengths(len(s.prompt), len(s.completion), s.family, s.shared) for s in sequences]
    layout = lay_out([own], 24, row_tokens=row_tokens, microbatch_rows=microbatch_rows)
    rows = [row.members for row in layout.rows[0]]
    assert sorted(index for row in rows for index in row) == list(range(len(sequences)))
    values = np.arange(1.0, len(sequences) + 1)
    packed = pack_rollouts(
        sequences,
        values,
        LossConfig(),
        rows=rows,
        row_tokens=layout.row_tokens,
        microbatch_rows=microbatch_rows,
        totals=layout.totals,
    )
    found = {}
    length = packed.tokens.shape[-1]
    tokens, positions, segments, advantages, weights, old = (
        getattr(packed, name).reshape(-1, length)
        for name in ("tokens", "positions", "segment_ids", "advantages", "token_weights", "old_logprobs")
    )
    prefixes = 0
    for row, ids in enumerate(segments):
        for segment in set(ids[ids > 0].tolist()):
            if segment in (ids // PREFIX).tolist():
                prefixes += 1
                assert (weights[row, ids == segment] == 0).all()
                continue
            seen = (ids == segment) | ((ids == segment // PREFIX) & (segment >= PREFIX))
            (advantage,) = set(advantages[row, ids == segment].tolist())
            assert (np.diff(np.flatnonzero(ids == segment)) == 1).all()
            assert positions[row, seen].tolist() == list(range(seen.sum()))
            found[int(advantage) - 1] = (tokens[row, seen].tolist(), weights[row, seen] > 0, old[row, seen])
    assert sorted(found) == list(range(len(sequences)))
    for index, (read, is_weighted, logprobs) in found.items():
        sequence = sequences[index]
        assert read == [*sequence.prompt, *sequence.completion]
        assert is_weighted.tolist() == [False] * len(sequence.prompt) + [True] * len(sequence.completion)
        assert logprobs[is_weighted].tolist() == list(sequence.logprobs)
    assert int((segments > 0).sum()) == sum(held_tokens(row, own) for row in rows)
    # A family is cut only where a row cannot hold it.
    for family in {s.family for s in sequences} - {-1}:
        members = [index for index, s in enumerate(sequences) if s.family == family]
        if held_tokens(members, own) <= layout.row_tokens:
            assert sum(bool(set(members) & set(row)) for row in rows) == 1


def test_prompts_share_all_that_they_begin_with_but_a_token_of_the_shortest():
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4, 6]]) == 2
    assert common_prefix([[1, 2, 3]] * 3) == 2  # the completion goes on from a token of its own
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1
    assert common_prefix([[4, 2], [1, 2, 3]]) == common_prefix([[1, 2, 3]]) == common_prefix([]) == 0


# --------------------------------------------------------------------------------------------------------------
# Several processes
# --------------------------------------------------------------------------------------------------------------


def test_rows_are_shared_out_evenly_over_the_processes():
    lengths = [[Lengths(6, 4), Lengths(5, 5), Lengths(2, 3)], [Lengths(6, 2)]]
    layout = lay_out(lengths, 20, row_tokens=10, microbatch_rows=2)
    # Three rows in the first process and one in the second: the third row of the first goes to the second.
    assert layout.microbatches == 1
    assert layout.rows == ((Row(0, (0,)), Row(0, (1,))), (Row(1, (0,)), Row(0, (2,))))
    assert layout.totals == Totals(tokens=14, sequences=4)
    assert layout.padding_share == pytest.approx(1 - 33 / (1 * 2 * 2 * 10))


def test_rows_are_lengthened_to_split_over_the_sequence_axis():
    layout = lay_out([[Lengths(6, 3)] * 4], 9, row_tokens=0, microbatch_rows=1, multiple=8)
    assert layout.row_tokens == 16 and layout.padding_share == pytest.approx(1 - 36 / 64)


def test_the_layout_of_one_process_is_what_packing_alone_makes():
    rng = np.random.default_rng(0)
    sequences = [TrainSequence([1] * int(p), [2] * int(c), [0.0] * int(c)) for p, c in rng.integers(1, 9, (30, 2))]
    zeros = np.zeros(len(sequences), np.float32)
    lengths = [Lengths(len(s.prompt), len(s.completion)) for s in sequences]
    layout = lay_out([lengths], 16, row_tokens=16, microbatch_rows=4)
    alone = pack_rollouts(sequences, zeros, LossConfig(), row_tokens=16, microbatch_rows=4)
    told = pack_rollouts(
        sequences,
        zeros,
        LossConfig(),
        row_tokens=layout.row_tokens,
        microbatch_rows=4,
        totals=layout.totals,
        min_microbatches=layout.microbatches,
    )
    np.testing.assert_array_equal(alone.token_weights, told.token_weights)
    np.testing.assert_array_equal(alone.tokens, told.tokens)
    assert layout.padding_share == alone.padding_share


# Memalpha as Fine-Mem trains on it: instances of each source, chunks of an instance, and the range of a chunk's length
# (Qwen3 tokens) whose mean is the published one.
MEMALPHA = {
    "squad": (100, 10, (120, 2048)),
    "hotpotqa": (100, 10, (100, 1910)),
    "perltqa": (27, 23, (240, 800)),
    "lme_train": (50, 15, (1008, 2048)),
    "nlu": (49, 10, (550, 672)),
    "trec-coarse": (51, 10, (350, 430)),
    "pubmed-rct": (90, 10, (1304, 2048)),
    "booksum": (100, 8, (1772, 2048)),
}
INSTRUCTIONS, VIEW = 750, 2500  # tokens of the system turn with its tools, and of the items shown, at most


def a_step_of_memalpha(seed: int) -> list[list[Lengths]]:
    """The sequences of 32 instances drawn from the corpus, 8 rollouts of each, by group: a row per step of each."""
    rng = np.random.default_rng(seed)
    corpus = [source for source, (instances, *_) in MEMALPHA.items() for _ in range(instances)]
    groups = []
    for source in rng.choice(corpus, size=32, replace=False):
        _, chunks, (least, most) = MEMALPHA[source]
        texts, group = rng.integers(least, most + 1, size=chunks), []
        for _ in range(8):
            memory = 0
            for text in texts:
                completion = int(np.clip(40 + 0.25 * text * rng.lognormal(0, 0.4), 20, 2048))
                group.append(Lengths(int(INSTRUCTIONS + text + min(memory, VIEW)), completion))
                memory += completion // 2
        groups.append(group)
    return groups


@pytest.mark.parametrize("processes", [1, 4, 8])
def test_padding_is_below_8_percent_on_the_lengths_of_memalpha(processes):
    """Whole groups lie in each process, and some hold nearly twice the tokens of others: rows have to move."""
    for seed in range(2):
        groups = a_step_of_memalpha(seed)
        made = [[s for group in groups[process::processes] for s in group] for process in range(processes)]
        tokens = [sum(map(len, own)) for own in made]
        assert 2300 < sum(map(len, made)) < 3100
        assert processes == 1 or max(tokens) > 1.2 * min(tokens)
        layout = lay_out(made, 8192, row_tokens=0, microbatch_rows=8)
        assert layout.padding_share < 0.08
        packed = [[made[row.owner][index] for row in rows for index in row.members] for rows in layout.rows]
        assert {id(s) for own in packed for s in own} == {id(s) for own in made for s in own}
        assert sum(map(len, packed)) == sum(map(len, made))
        assert all(len(rows) <= 8 * layout.microbatches for rows in layout.rows)


def test_rows_that_do_not_split_are_refused_with_the_knob():
    mesh = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
    check_rows(mesh, 2, processes=2)
    with pytest.raises(UserError, match=r"config\.train\.microbatch_rows a multiple of 2"):
        check_rows(mesh, 3, processes=2)
    with pytest.raises(UserError, match="do not split over 8 processes"):
        check_rows(mesh, 8, processes=8)
