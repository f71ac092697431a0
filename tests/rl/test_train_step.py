"""One update: the same for every split, order, packing and mesh; equal to a plain loss over whole sequences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finemem_jax.config import LossConfig, OptimizerConfig
from finemem_jax.nn.sharding import make_mesh, param_shardings
from finemem_jax.rl import metrics
from finemem_jax.rl.train_state import create_train_state, make_optimizer, make_schedule
from finemem_jax.rl.train_step import (
    accumulate_gradients,
    make_fill_logprobs,
    make_sft_step,
    make_train_step,
    state_shardings,
)
from finemem_jax.rollouts.packing import Lengths, TrainSequence, lay_out, pack_rollouts, to_device

CFG = LossConfig(kl_coef=0.0, clip_low=0.2, clip_high=0.3, aggregation="sequence_mean")
SEQ = 32


@pytest.fixture(scope="module")
def sequences():
    """Nine sequences that pack into six rows of 32, with old log-probs around the model's own."""
    rng = np.random.default_rng(0)
    lengths = [(20, 12), (16, 10), (4, 24), (10, 6), (5, 9), (3, 12), (12, 4), (8, 20), (1, 5)]
    made = [
        TrainSequence(
            rng.integers(1, 512, size=p).tolist(), rng.integers(1, 512, size=c).tolist(), rng.normal(-7, 0.5, size=c)
        )
        for p, c in lengths
    ]
    return made, rng.normal(size=len(made)).astype(np.float32)


@pytest.fixture(scope="module")
def gradients_of(model):
    """Jitted `accumulate_gradients` of the real policy loss."""
    from finemem_jax.rl.grpo import policy_loss
    from finemem_jax.rl.logprobs import token_logprobs

    def loss_of(params, batch):
        logprobs = token_logprobs(model, params, batch.tokens, batch.positions, batch.segment_ids)
        return policy_loss(logprobs, batch.old_logprobs, None, batch.advantages, batch.token_weights, CFG)

    return jax.jit(lambda params, batch: accumulate_gradients(loss_of, params, batch))


@pytest.fixture(scope="module")
def whole(sequences, gradients_of, params):
    """Gradient and metrics of the batch as one microbatch of eight rows."""
    return gradients_of(params, packed_batch(sequences, 8))


def packed_batch(sequences, microbatch_rows, row_tokens=SEQ):
    return to_device(pack_rollouts(*sequences, CFG, row_tokens=row_tokens, microbatch_rows=microbatch_rows))


def assert_same_tree(found, expected):
    """Each array within 1e-5 of the expected one, relative to its norm."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(b) > 1e-4
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


def assert_same(found, expected):
    assert_same_tree(found[0], expected[0])
    for name, value in metrics.read(expected[1]).items():
        assert metrics.read(found[1])[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("microbatch_rows", [2, 4])
def test_microbatches_and_padding_rows_change_nothing(sequences, gradients_of, params, whole, microbatch_rows):
    batch = packed_batch(sequences, microbatch_rows)
    rows = {2: (4, 2), 4: (2, 4)}[microbatch_rows]
    assert batch.tokens.shape == (*rows, SEQ)
    assert not batch.segment_ids.reshape(8, SEQ)[6:].any()  # two of the eight rows are padding
    assert_same(gradients_of(params, batch), whole)


def test_row_order_changes_nothing(sequences, gradients_of, params, whole):
    batch = packed_batch(sequences, 8)
    order = np.random.default_rng(1).permutation(8)
    assert_same(gradients_of(params, jax.tree.map(lambda x: x[:, order], batch)), whole)


def test_what_padding_holds_changes_nothing(sequences, gradients_of, params, whole):
    batch = packed_batch(sequences, 8)
    is_padding = batch.segment_ids == 0
    noisy = batch.replace(
        tokens=jnp.where(is_padding, 77, batch.tokens),
        positions=jnp.where(is_padding, 5, batch.positions),
        old_logprobs=jnp.where(is_padding, -300.0, batch.old_logprobs),
        advantages=jnp.where(is_padding, 1e6, batch.advantages),
    )
    assert_same(gradients_of(params, noisy), whole)


def test_gradient_equals_that_of_a_plain_loss_over_whole_sequences(model, params, sequences, whole):
    """Unpacked, one sequence per row, full logits, the mean of per-sequence means, none of the product's loss."""
    made, advantages = sequences
    tokens = np.zeros((len(made), SEQ), np.int32)
    old, mask = np.zeros((2, len(made), SEQ), np.float32)
    for row, s in enumerate(made):
        tokens[row, : len(s)] = [*s.prompt, *s.completion]
        old[row, len(s.prompt) : len(s)] = s.logprobs
        mask[row, len(s.prompt) : len(s)] = 1
    segments = jnp.asarray(np.arange(SEQ)[None] < np.array([len(s) for s in made])[:, None], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(SEQ), tokens.shape)

    def plain_loss(params):
        logits = model.apply({"params": params}, jnp.asarray(tokens), positions, segments)
        logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)[..., 0]
        ratio = jnp.exp((logprobs - old[:, 1:]) * mask[:, 1:])
        a = advantages[:, None]
        objective = jnp.where(a > 0, jnp.minimum(ratio, 1.3) * a, jnp.maximum(ratio, 0.8) * a)
        return -jnp.mean(jnp.sum(objective * mask[:, 1:], 1) / mask.sum(1))

    loss, gradient = jax.jit(jax.value_and_grad(plain_loss))(params)
    assert_same_tree(whole[0], gradient)
    read = metrics.read(whole[1])
    assert read["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert read["clipped_high"] > 0.02 and read["clipped_low"] > 0.02


@pytest.fixture(scope="module")
def optimizer():
    return make_optimizer(OptimizerConfig(lr=1e-3, warmup=0.0, max_grad_norm=0.1), updates=10)


@pytest.fixture(scope="module")
def train_step(model, optimizer):
    return make_train_step(model, optimizer, CFG)


def copied(tree):
    return jax.tree.map(jnp.copy, tree)  # a step donates its state


@pytest.fixture(scope="module")
def updated(train_step, optimizer, params, sequences):
    """The state and metrics after one update on one device."""
    return train_step(create_train_state(copied(params), optimizer), packed_batch(sequences, 8))


MESHES = [{"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 2, "sequence": 2, "tensor": 2}]  # each axis, and all in turns


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_a_mesh_changes_nothing(model, optimizer, params, sequences, updated, axes):
    assert_a_mesh_changes_nothing(model, optimizer, params, sequences, updated, axes)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"tensor": 4, "data": 2}, {"fsdp": 4, "sequence": 2}], ids=str)
def test_a_mesh_of_fewer_axes_changes_nothing(model, optimizer, params, sequences, updated, axes):
    """The axes of `test_a_mesh_changes_nothing`, which run all together there."""
    assert_a_mesh_changes_nothing(model, optimizer, params, sequences, updated, axes)


def assert_a_mesh_changes_nothing(model, optimizer, params, sequences, updated, axes):
    mesh = make_mesh(**{"data": 1, **axes})
    placed = jax.device_put(params, param_shardings(model, mesh))
    kernel = placed["layers"]["mlp"]["gate_proj"]["kernel"]
    # Really split: over all devices but those that share rows or their tokens.
    ways = mesh.shape["fsdp"] * mesh.shape["tensor"]
    assert ways >= 4 and kernel.addressable_shards[0].data.size == kernel.size // ways
    state = create_train_state(copied(placed), optimizer)
    shardings = state_shardings(state)
    for moment in ("mu", "nu"):
        held = optax.tree.get(state.opt_state, moment)["layers"]["mlp"]["gate_proj"]["kernel"]
        assert held.sharding.is_equivalent_to(kernel.sharding, 3)
    batch = to_device(pack_rollouts(*sequences, CFG, row_tokens=SEQ, microbatch_rows=8), mesh)
    rows, tokens = 8 // (mesh.shape["data"] * mesh.shape["fsdp"]), SEQ // mesh.shape["sequence"]
    assert batch.tokens.addressable_shards[0].data.shape[1:] == (rows, tokens)
    train_step = make_train_step(model, optimizer, CFG, shardings=shardings, mesh=mesh)
    state, found = train_step(state, batch)
    assert state_shardings(state) == shardings
    expected_state, expected = updated
    for name, value in metrics.read(expected).items():
        assert metrics.read(found)[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    # First moments after one update are the clipped gradient times (1 - b1): compare those, not Adam's signs.
    moments, expected_moments = (optax.tree.get(s.opt_state, "mu") for s in (state, expected_state))
    assert_same_tree(moments, expected_moments)
    train_step(state, batch)
    assert train_step._cache_size() == 1  # the second update runs what the first compiled


def test_an_update_moves_the_parameters_and_donates_the_state(train_step, optimizer, params, sequences, updated):
    state, found = updated
    assert int(state.step) == 1
    read = metrics.read(found)
    assert read["skipped_updates"] == 0 and read["grad_norm"] > 0.1
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, params)
    assert all(0 < distance < 0.01 for distance in jax.tree.leaves(moved))
    given = create_train_state(copied(params), optimizer)
    after, _ = train_step(given, packed_batch(sequences, 8))
    assert given.params["embedding"]["table"].is_deleted()
    compiled, batch = train_step._cache_size(), packed_batch(sequences, 8)
    with jax.transfer_guard("disallow"):  # as in the loop: what the device needs is there
        metrics.read(train_step(after, batch)[1])
    assert train_step._cache_size() == compiled  # an updated state is not another kind of argument


def test_a_gradient_that_is_not_finite_skips_the_update(train_step, optimizer, params, sequences):
    made, advantages = sequences
    broken = np.where(np.arange(len(advantages)) == 3, np.inf, advantages)
    state, found = train_step(create_train_state(copied(params), optimizer), packed_batch((made, broken), 8))
    read = metrics.read(found)
    assert read["skipped_updates"] == 1 and np.isnan(read["grad_norm"])
    assert int(state.step) == 1
    expected = create_train_state(copied(params), optimizer)
    for a, b in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(expected.opt_state), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_train_on_leaves_a_zero_gradient(train_step, optimizer, params, sequences):
    made, advantages = sequences
    nothing = packed_batch((made, advantages * np.nan), 8)
    state, found = train_step(create_train_state(copied(params), optimizer), nothing)
    read = metrics.read(found)
    assert read["loss"] == 0 and read["grad_norm"] == 0 and np.isnan(read["nll"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_reference_logprobs_at_the_same_parameters_give_no_kl(model, optimizer, params, sequences):
    batch = packed_batch(sequences, 8)
    batch = batch.replace(ref_logprobs=make_fill_logprobs(model)(params, batch))
    assert (np.asarray(batch.ref_logprobs) < -1).sum() > 100
    step = make_train_step(model, optimizer, LossConfig(kl_coef=0.5, aggregation="sequence_mean"))
    state, found = step(create_train_state(copied(params), optimizer), batch)
    assert metrics.read(found)["ref_kl"] == pytest.approx(0.0, abs=1e-6)
    _, found = step(state, batch)
    assert metrics.read(found)["ref_kl"] > 1e-5


def test_sft_lowers_the_loss_of_its_examples(model, params, sequences):
    optimizer = make_optimizer(OptimizerConfig(lr=3e-3, warmup=0.0), updates=5)
    step = make_sft_step(model, optimizer)
    batch = to_device(pack_rollouts(*sequences, LossConfig(), row_tokens=SEQ, microbatch_rows=8))
    state, losses = create_train_state(copied(params), optimizer), []
    for _ in range(5):
        state, found = step(state, batch)
        losses.append(metrics.read(found)["loss"])
    assert losses[-1] < losses[0] - 0.3
    assert metrics.read(found)["nll"] == pytest.approx(losses[-1], rel=1e-5)  # both are means over tokens


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.75, 0.25, 0]),
    ],
)
def test_schedules_rise_then_decay_to_zero_on_the_last_update(schedule, expected):
    rate = make_schedule(OptimizerConfig(lr=0.1, schedule=schedule, warmup=1 / 3), updates=6)
    np.testing.assert_allclose([rate(i) for i in range(6)], np.array(expected) * 0.1, atol=1e-7)


def test_first_moment_can_be_bfloat16_and_norms_do_not_decay():
    params = {"embedding": {"table": jnp.arange(6.0)}, "final_norm": {"scale": jnp.ones(2)}}
    optimizer = make_optimizer(OptimizerConfig(lr=1.0, warmup=0.0, weight_decay=0.5, bf16_momentum=True), updates=1)
    state = create_train_state(params, optimizer)
    assert optax.tree.get(state.opt_state, "mu")["embedding"]["table"].dtype == jnp.bfloat16
    assert optax.tree.get(state.opt_state, "nu")["embedding"]["table"].dtype == jnp.float32
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), state.opt_state, params)
    np.testing.assert_allclose(updates["embedding"]["table"], -0.5 * params["embedding"]["table"], rtol=1e-6)
    assert not np.any(updates["final_norm"]["scale"])


def test_what_sequences_share_is_computed_once_with_the_same_gradient(gradients_of, params):
    """Two families and a sequence alone: as rows of whole sequences, and with their prefixes in the rows once."""
    rng = np.random.default_rng(5)
    made = []
    for family, (shared, owns) in enumerate([(12, [(3, 5), (1, 4), (6, 2)]), (7, [(2, 9), (4, 4)]), (0, [(11, 6)])]):
        prefix = rng.integers(1, 512, size=shared).tolist()
        for own, count in owns:
            prompt = prefix + rng.integers(1, 512, size=own).tolist()
            completion, logprobs = rng.integers(1, 512, size=count).tolist(), rng.normal(-7, 0.5, size=count)
            made.append(TrainSequence(prompt, completion, logprobs, family if shared else -1, shared))
    values = rng.normal(size=len(made)).astype(np.float32)
    apart = [dataclasses.replace(sequence, family=-1, shared=0) for sequence in made]
    own = [Lengths(len(s.prompt), len(s.completion), s.family, s.shared) for s in made]
    layout = lay_out([own], SEQ, row_tokens=64, microbatch_rows=1)
    rows = [row.members for row in layout.rows[0]]
    together = pack_rollouts(made, values, CFG, rows=rows, row_tokens=64, microbatch_rows=1, totals=layout.totals)
    assert together.used_rows == 2  # 95 tokens apart, 64 + 31 - what is shared
    assert int((together.segment_ids > 0).sum()) == sum(map(len, made)) - 2 * 12 - 7
    whole = pack_rollouts(apart, values, CFG, row_tokens=SEQ, microbatch_rows=8)
    assert_same(gradients_of(params, to_device(together)), gradients_of(params, to_device(whole)))
