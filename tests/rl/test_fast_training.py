"""Turns that were sampled under fast weights are trained under the same ones, which the update does not move."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.config import FastConfig, LossConfig
from finemem_jax.nn.fast_weights import FastSetup, FastWeights, empty_memory, make_basis, merged
from finemem_jax.nn.sharding import make_mesh
from finemem_jax.rl.grpo import policy_loss
from finemem_jax.rl.logprobs import token_logprobs
from finemem_jax.rl.train_step import accumulate_gradients, carried, make_fill_logprobs
from finemem_jax.rollouts.packing import Lengths, TrainSequence, count_totals, lay_out, pack_rollouts, to_device

CFG = LossConfig(kl_coef=0.0, aggregation="sequence_mean")
ROW = 24
LENGTHS = ((6, 5), (9, 4), (3, 3), (8, 8), (5, 6), (4, 4), (2, 3))
UNDER = (0, 2, 1, 0, 2, 1, 2)


@pytest.fixture(scope="module")
def setup(model, params):
    cfg = FastConfig(rank=2, layers=2, scale=0.7)
    return FastSetup(cfg, make_basis(params, cfg))


@pytest.fixture(scope="module")
def memories(model, setup):
    rng = np.random.default_rng(3)
    zeros = empty_memory(model, setup.cfg)
    return {n: {k: 0.02 * rng.standard_normal(x.shape, np.float32) for k, x in zeros.items()} for n in (1, 2)}


@pytest.fixture(scope="module")
def sequences(memories):
    rng = np.random.default_rng(0)
    return [
        TrainSequence(
            rng.integers(1, 512, p).tolist(),
            rng.integers(1, 512, c).tolist(),
            rng.normal(-7, 0.5, c),
            fast=number,
            memory=memories.get(number),
        )
        for (p, c), number in zip(LENGTHS, UNDER, strict=True)
    ]


def pack(sequences, advantages, setup, model, **given):
    zeros = None if setup is None else empty_memory(model, setup.cfg)
    return pack_rollouts(sequences, advantages, CFG, row_tokens=ROW, microbatch_rows=2, no_memory=zeros, **given)


def test_no_row_mixes_turns_of_different_fast_weights(model, sequences, setup, memories):
    packed = pack(sequences, np.ones(len(sequences)), setup, model)
    by_tokens = {tuple([*s.prompt, *s.completion]): s.fast for s in sequences}
    rows, own = packed.tokens.reshape(-1, ROW), packed.fast["up_proj"].reshape(-1, *memories[1]["up_proj"].shape)
    segments = packed.segment_ids.reshape(-1, ROW)
    found = 0
    for row, segment, b in zip(rows, segments, own, strict=True):
        for number in range(1, segment.max() + 1):
            fast = by_tokens[tuple(row[segment == number].tolist())]
            np.testing.assert_array_equal(b, memories[fast]["up_proj"] if fast else np.zeros_like(b))
            found += 1
    assert found == len(sequences) and packed.used_rows == 5  # three rows would hold them all, mixed
    lengths = [Lengths(*pair, fast=number) for pair, number in zip(LENGTHS, UNDER, strict=True)]
    layout = lay_out([lengths], ROW, row_tokens=ROW, microbatch_rows=2)
    assert all(len({UNDER[member] for member in row.members}) == 1 for row in layout.rows[0])
    with pytest.raises(ValueError, match="sampled under different fast weights"):
        pack(sequences, np.ones(len(sequences)), setup, model, rows=[[0, 1]])


def test_the_gradient_is_that_of_merged_models_each_on_its_turns(model, params, sequences, setup, memories):
    """A and B are constants, so a kernel's gradient is that of the merged kernel; so is every other parameter's."""

    def gradients(params, batch):
        def loss_of(params, batch):
            logprobs = token_logprobs(
                model,
                params,
                batch.tokens,
                batch.positions,
                batch.segment_ids,
                chunk=8,
                fast=carried(setup, batch.fast),
            )
            return policy_loss(logprobs, batch.old_logprobs, None, batch.advantages, batch.token_weights, CFG)

        return accumulate_gradients(loss_of, params, batch)[0]

    compiled = jax.jit(gradients)
    advantages = np.random.default_rng(1).normal(size=len(sequences)).astype(np.float32)
    together = compiled(params, to_device(pack(sequences, advantages, setup, model)))
    totals = count_totals(sequences, advantages)
    expected = jax.tree.map(jnp.zeros_like, params)
    for number in (0, 1, 2):
        chosen = [i for i, s in enumerate(sequences) if s.fast == number]
        plain = [dataclasses.replace(sequences[i], fast=0, memory=None) for i in chosen]
        batch = to_device(pack(plain, advantages[chosen], None, model, totals=totals))
        own = params
        if number:
            b = jax.tree.map(lambda x: x[None], memories[number])
            own = merged(model, params, FastWeights(setup.basis, b, setup.cfg.scale), 0)
        expected = jax.tree.map(jnp.add, expected, compiled(own, batch))
    for found, wanted in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_a_reference_reads_with_the_fast_weights_or_without_on_a_mesh_as_on_one_device(model, params, sequences, setup):
    packed = pack(sequences, np.ones(len(sequences)), setup, model)
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    found = []
    for where in (None, mesh):
        fill, batch = make_fill_logprobs(model, chunk=8, fast=setup, mesh=where), to_device(packed, where)
        found.append((fill(params, batch), fill(params, batch.replace(fast=None))))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    moved = np.abs(found[0][0] - found[0][1]).max(-1).reshape(-1)
    carries = np.abs(packed.fast["up_proj"]).reshape(len(moved), -1).max(-1) > 0
    assert ((moved > 1e-3) == carries).all() and carries.sum() == 3
