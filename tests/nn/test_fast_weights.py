"""Fast weights: row by row the merged model, in values and in gradients, and a write is each owner's own affair."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.config import FastConfig, UserError, plugins, resolve
from finemem_jax.nn.fast_weights import (
    PROJECTIONS,
    FastWeights,
    empty_memory,
    make_basis,
    memory_bytes,
    merged,
    principal_inputs,
)
from finemem_jax.nn.sharding import init_params
from finemem_jax.rl.fast_write import Texts, write

CFG = FastConfig(rank=2, layers=2, scale=0.5, lr=0.05, epochs=2, batch=2)
ROWS, SEQ, VOCAB = 4, 7, 61


def make(family):
    """(model, parameters, fast weights of ROWS rows that do something)."""
    module = resolve("finemem_jax.models", family)
    model = module.Model(dataclasses.replace(module.PRESETS["tiny"], vocab_size=VOCAB, num_layers=3))
    params = init_params(model, jax.random.key(0))
    params = jax.tree.map(lambda p: p * 3 if p.ndim > 1 else p, params)
    rng = np.random.default_rng(0)
    b = {name: 0.03 * rng.standard_normal(x.shape, np.float32) for name, x in empty_memory(model, CFG, ROWS).items()}
    return model, params, FastWeights(make_basis(params, CFG), b, CFG.scale)


@pytest.fixture(scope="module")
def qwen3():
    return make("qwen3")


@pytest.fixture(scope="module")
def compiled(qwen3):
    model, params, fast = qwen3
    return jax.jit(lambda b, texts: write(model, params, fast.replace(b=b), texts, CFG))


def inputs(rows=ROWS):
    tokens = jax.random.randint(jax.random.key(2), (rows, SEQ), 0, VOCAB)
    return tokens, jnp.broadcast_to(jnp.arange(SEQ), (rows, SEQ)), jnp.ones((rows, SEQ), jnp.int32)


def texts(owners, count=4, seed=0):
    """Of the owners some have fewer texts than others, the first has none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, SEQ, (owners, count)).astype(np.int32)
    lengths[1::2, count - 1 :], lengths[0] = 0, 0
    tokens = rng.integers(0, VOCAB, (owners, count, SEQ)).astype(np.int32)
    return Texts(tokens, lengths, np.minimum(rng.integers(1, 3, (owners, count)), lengths).astype(np.int32))


@pytest.mark.parametrize("family", plugins("finemem_jax.models"))
def test_rows_with_their_own_fast_weights_are_merged_models_row_by_row(family):
    model, params, fast = make(family)

    def probed(params, fast, tokens, positions, segment_ids):
        logits = model.apply({"params": params}, tokens, positions, segment_ids, fast=fast)
        return jnp.sum(jax.nn.log_softmax(logits)[..., 3] ** 2), logits

    both = jax.jit(jax.value_and_grad(probed, argnums=(0, 1), has_aux=True))
    (_, together), (_, gradient) = both(params, fast, *inputs())
    still = fast.replace(b=jax.tree.map(jnp.zeros_like, fast.b))
    for row in range(ROWS):
        own = [x[row : row + 1] for x in inputs()]
        # The merged kernel's gradient G is that of the update too: that of B is scale * A^T G.
        kernels = merged(model, params, fast, row)
        (_, alone), (of_kernels, _) = both(kernels, jax.tree.map(lambda x: x[:1], still), *own)
        np.testing.assert_allclose(together[row], alone[0], atol=2e-4)
        for name in PROJECTIONS:
            of_kernel = of_kernels["layers"]["mlp"][name]["kernel"][-CFG.layers :]
            expected = CFG.scale * np.swapaxes(fast.a[name], 1, 2) @ of_kernel
            np.testing.assert_allclose(gradient.b[name][row], expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    apply = jax.jit(model.apply)
    plain = apply({"params": params}, *inputs())
    assert np.abs(together - plain).max() > 0.1
    np.testing.assert_allclose(apply({"params": params}, *inputs(), fast=still), plain, atol=1e-6)


def test_fewer_owners_than_rows_serve_neighbours(qwen3):
    model, params, fast = qwen3
    two = fast.replace(b=jax.tree.map(lambda b: b[:2], fast.b))
    four = fast.replace(b=jax.tree.map(lambda b: jnp.repeat(b[:2], 2, axis=0), fast.b))
    found = [jax.jit(model.apply)({"params": params}, *inputs(), fast=each) for each in (two, four)]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_the_basis_is_what_the_kernel_answers_most_to_or_as_long_at_random(qwen3):
    _, params, fast = qwen3
    for name in PROJECTIONS:  # down_proj is taller than wide, the others are wider than tall
        kernel = np.asarray(params["layers"]["mlp"][name]["kernel"][-1], np.float64)
        left, values, _ = np.linalg.svd(kernel, full_matrices=False)
        found = principal_inputs(kernel, 2)
        np.testing.assert_allclose(np.abs(found), np.abs(left[:, :2] * values[:2]), atol=1e-6)
        assert (found[np.abs(found).argmax(0), [0, 1]] > 0).all()
        np.testing.assert_array_equal(fast.a[name][-1], found.astype(np.float32))
    drawn = make_basis(params, dataclasses.replace(CFG, basis="random"), seed=3)
    for name in PROJECTIONS:
        lengths = [np.linalg.norm(a[name], axis=(1, 2)) for a in (drawn, fast.a)]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
        assert np.abs(drawn[name] - fast.a[name]).max() > 0.1


def test_a_write_of_many_is_the_writes_of_each(compiled, qwen3):
    """Whatever the neighbours, their order, and how full their places are."""
    _, _, fast = qwen3
    given = texts(ROWS)
    together, losses = compiled(fast.b, given)
    order = np.array([2, 0, 3, 1])
    shuffled, _ = compiled(*jax.tree.map(lambda x: x[order], (fast.b, given)))
    for name in PROJECTIONS:
        np.testing.assert_allclose(shuffled[name], together[name][order], atol=1e-6)
        np.testing.assert_array_equal(together[name][0], fast.b[name][0])  # nothing to learn
    for row in range(1, ROWS):
        one = jax.tree.map(lambda x, row=row: x[row : row + 1], (fast.b, given))
        alone, alone_losses = compiled(*one)
        for name in PROJECTIONS:
            np.testing.assert_allclose(together[name][row], alone[name][0], atol=1e-6)
            assert np.abs(together[name][row] - fast.b[name][row]).max() > 1e-4
        np.testing.assert_allclose(losses[:, row], alone_losses[:, 0], rtol=1e-5)
    assert (losses[1, 1:] < losses[0, 1:]).all() and losses[0, 0] == 0


def test_a_write_is_sgd_on_the_mean_over_the_learned_tokens_of_each_batch(compiled, qwen3):
    """Against steps written down one by one, through the whole model."""
    model, params, fast = qwen3
    given = jax.tree.map(lambda x: x[1:2], texts(ROWS))

    def loss(b, tokens, lengths, starts):
        places = jnp.broadcast_to(jnp.arange(SEQ), tokens.shape)
        rows = (tokens, places, (places < lengths[:, None]).astype(jnp.int32))
        logits = model.apply({"params": params}, *rows, fast=FastWeights(fast.a, b, CFG.scale))
        found = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)[..., 0]
        learned = (places >= starts[:, None]) & (places < lengths[:, None])
        return -jnp.sum(jnp.where(learned[:, 1:], found, 0)) / jnp.sum(learned)

    step = jax.jit(jax.value_and_grad(loss))
    b = jax.tree.map(lambda b: b[1:2], fast.b)
    found, losses = compiled(b, given)
    batches = [[x[0, batch] for x in (given.tokens, given.lengths, given.starts)] for batch in (np.s_[:2], np.s_[2:])]
    learned = [np.sum(lengths - starts) for _, lengths, starts in batches]
    before = [step(b, *batch)[0] for batch in batches]
    np.testing.assert_allclose(losses[0, 0], np.average(before, weights=learned), rtol=1e-4)
    for _ in range(CFG.epochs):
        for batch in batches:
            b = jax.tree.map(lambda b, g: b - CFG.lr * g, b, step(b, *batch)[1])
    for name in PROJECTIONS:
        np.testing.assert_allclose(found[name], b[name], atol=1e-5)
    after = [step(b, *batch)[0] for batch in batches]
    np.testing.assert_allclose(losses[1, 0], np.average(after, weights=learned), rtol=1e-4)


def test_sizes_at_the_papers_setting_and_what_a_model_cannot_carry(qwen3):
    shape = resolve("finemem_jax.models", "qwen3").PRESETS["4b"]
    assert memory_bytes(shape, FastConfig(rank=6)) == 528_384 * 4
    with pytest.raises(UserError, match=r"fast\.rank=65: gate_proj of 64 by 192"):
        make_basis(qwen3[1], FastConfig(rank=65, layers=1))
    with pytest.raises(UserError, match=r"fast\.layers=4: the model has 3"):
        make_basis(qwen3[1], FastConfig(rank=6))
