"""Log-probabilities against one full softmax per prefix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.rl.logprobs import entropy_of, logprobs_of, token_logprobs, token_logprobs_and_entropies


@pytest.fixture(scope="module")
def packed():
    """Two rows of 24: segments of 9 and 11 tokens with padding behind, and one segment of 24."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 512, size=(2, 24)).astype(np.int32)
    segments = np.array([[1] * 9 + [2] * 11 + [0] * 4, [1] * 24], np.int32)
    positions = np.array([[*range(9), *range(11), *[0] * 4], [*range(24)]], np.int32)
    return jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments)


@pytest.fixture(scope="module")
def logprobs_at(model):
    return jax.jit(
        lambda params, batch, temperature, chunk: token_logprobs(
            model, params, *batch, temperature=temperature, chunk=chunk
        ),
        static_argnums=(2, 3),
    )


@pytest.fixture(scope="module")
def logits_of(model, params):
    """Full logits of one sequence alone, padded to 24 so that one compilation serves all."""
    apply = jax.jit(lambda *row: model.apply({"params": params}, *row))

    def logits(tokens):
        seq = len(tokens)
        padded = jnp.zeros((1, 24), jnp.int32).at[0, :seq].set(tokens)
        positions = jnp.arange(24)[None]
        return np.asarray(apply(padded, positions, (positions < seq).astype(jnp.int32))[0, :seq], np.float64)

    return logits


def slow_logprobs(logits, tokens, temperature):
    """log softmax at each next token, in float64."""
    seq, scaled = len(tokens), logits / temperature
    logprobs = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    return np.array([0.0] + [logprobs[t - 1, int(tokens[t])] for t in range(1, seq)])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_packed_logprobs_equal_those_of_each_sequence_alone(params, packed, logits_of, logprobs_at, temperature):
    found = np.asarray(logprobs_at(params, packed, temperature, 512))
    tokens = packed[0]
    for row, start, end in ((0, 0, 9), (0, 9, 20), (1, 0, 24)):
        sequence = tokens[row, start:end]
        expected = slow_logprobs(logits_of(sequence), sequence, temperature)
        np.testing.assert_allclose(found[row, start:end], expected, atol=1e-4)
        assert found[row, start] == 0 and np.abs(expected[1:]).min() > 1e-3
    assert (found[0, 20:] == 0).all()


@pytest.fixture(scope="module")
def loss_and_gradient(model, params, packed):
    weights = jax.random.uniform(jax.random.key(3), packed[0].shape)

    def loss(params, chunk):
        logprobs = token_logprobs(model, params, *packed, temperature=0.8, chunk=chunk)
        return jnp.sum(logprobs * weights), logprobs

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    return lambda chunk: compiled(params, chunk)


@pytest.mark.parametrize("chunk", [5, 22])
def test_chunks_change_neither_values_nor_gradients(loss_and_gradient, chunk):
    (_, whole), whole_gradient = loss_and_gradient(512)
    (_, parts), gradient = loss_and_gradient(chunk)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(whole_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7)


def test_only_counted_tokens_are_measured_and_only_they_pull(model, params, packed):
    counted = jax.random.uniform(jax.random.key(5), packed[0].shape) < 0.4
    weights = jax.random.uniform(jax.random.key(3), packed[0].shape)

    def loss(params, counted, spare):
        logprobs = token_logprobs(model, params, *packed, temperature=0.8, chunk=4, counted=counted)
        return jnp.sum(logprobs * weights * spare), logprobs

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, found), gradient = run(params, counted, jnp.ones_like(weights))
    (_, whole), expected = run(params, jnp.ones_like(counted), counted)
    np.testing.assert_allclose(found, np.where(counted, whole, 0), atol=1e-5)
    assert 10 < (np.asarray(found) < -1e-3).sum() < 30
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7)


def test_entropies_come_with_the_logprobs(model, params, packed, logits_of):
    found = jax.jit(lambda params: token_logprobs_and_entropies(model, params, *packed, temperature=0.6, chunk=5))
    logprobs, entropies = found(params)
    np.testing.assert_allclose(logprobs, token_logprobs(model, params, *packed, temperature=0.6, chunk=512), atol=1e-5)
    scaled = logits_of(packed[0][0, 9:20]) / 0.6
    p = np.exp(scaled) / np.exp(scaled).sum(-1, keepdims=True)
    expected = -(p * np.log(p)).sum(-1)[:-1]  # column t is of the distribution that token t was drawn from
    np.testing.assert_allclose(entropies[0, 10:20], expected, atol=1e-4)
    assert entropies[0, 9] == 0 and expected.min() > 0.1
    np.testing.assert_allclose(entropy_of(jnp.zeros((1, 8))), [np.log(8)], rtol=1e-6)


def test_logits_exist_for_one_chunk_at_a_time(model, params, packed):
    """In the traced gradient no array with a vocabulary axis is larger than one chunk's logits."""

    def loss(params, chunk):
        return jnp.sum(token_logprobs(model, params, *packed, chunk=chunk))

    def logit_sizes(jaxpr):
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                if variable.aval.shape[-1:] == (512,):
                    yield variable.aval.size
            for value in equation.params.values():
                for sub in value if isinstance(value, (tuple, list)) else (value,):
                    if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                        yield from logit_sizes(getattr(sub, "jaxpr", sub))

    def largest(chunk):
        return max(logit_sizes(jax.make_jaxpr(jax.grad(lambda p: loss(p, chunk)))(params).jaxpr))

    assert largest(4) == 2 * 4 * 512
    assert largest(64) == 2 * 23 * 512


def test_logprobs_of_stays_exact_for_large_logits():
    logits = jnp.array([[1000.0, 999.0]])
    found = logprobs_of(logits, jnp.array([1]), jnp.array([0.5]))
    np.testing.assert_allclose(found, [-2.0 - np.log1p(np.exp(-2.0))], rtol=1e-5)
