"""One draw: its distribution, its truncations, and what it may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.decoding.sampling import NO_STOP, RowSampling, completion_keys, is_stop, sample


def rows_of(count, *, temperature=1.0, top_k=0, top_p=1.0, min_tokens=0, stop_tokens=(), words=None):
    words = np.arange(count)[:, None] if words is None else words
    stops = [*stop_tokens, *[NO_STOP] * (4 - len(stop_tokens))]
    return RowSampling(
        key=completion_keys(jnp.asarray(words, jnp.uint32)),
        temperature=jnp.full((count,), temperature, jnp.float32),
        top_k=jnp.full((count,), top_k, jnp.int32),
        top_p=jnp.full((count,), top_p, jnp.float32),
        min_tokens=jnp.full((count,), min_tokens, jnp.int32),
        stop_tokens=jnp.tile(jnp.array(stops, jnp.int32), (count, 1)),
    )


draw = jax.jit(sample, static_argnames="truncate")
PROBABILITIES = np.array([0.5, 0.05, 0.3, 0.15])
LOGITS = np.log(PROBABILITIES) + 3.0  # a constant changes nothing


def frequencies(rows, *, truncate):
    count = len(rows.temperature)
    logits = jnp.tile(jnp.asarray(LOGITS, jnp.float32), (count, 1))
    tokens, logprobs = draw(logits, rows, jnp.zeros(count, jnp.int32), truncate=truncate)
    return np.bincount(tokens, minlength=4) / count, np.asarray(tokens), np.asarray(logprobs)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_and_logprobs_are_those_of_the_tempered_softmax(temperature):
    found, tokens, logprobs = frequencies(rows_of(20000, temperature=temperature), truncate=False)
    expected = PROBABILITIES ** (1 / temperature)
    expected /= expected.sum()
    np.testing.assert_allclose(found, expected, atol=0.012)
    np.testing.assert_allclose(logprobs, np.log(expected)[tokens], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 2}, [0, 2]),
        ({"top_p": 0.5}, [0]),
        ({"top_p": 0.6}, [0, 2]),
        ({"top_p": 0.81}, [0, 2, 3]),
        ({"top_k": 3, "top_p": 0.6}, [0, 2]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_truncation_keeps_the_most_likely_and_reports_untruncated_logprobs(settings, kept):
    found, tokens, logprobs = frequencies(rows_of(20000, **settings), truncate=True)
    expected = np.where(np.isin(np.arange(4), kept), PROBABILITIES, 0.0)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.012)
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(logprobs, np.log(PROBABILITIES)[tokens], rtol=1e-4)


def test_truncation_switched_off_draws_the_same_tokens():
    rows = rows_of(500)
    _, with_sort, _ = frequencies(rows, truncate=True)
    _, without, _ = frequencies(rows, truncate=False)
    np.testing.assert_array_equal(with_sort, without)


def test_greedy_takes_the_first_of_the_best_with_logprobs_at_temperature_one():
    logits = jnp.array([[1.0, 3.0, 3.0, 0.0]])
    tokens, logprobs = draw(logits, rows_of(1, temperature=0.0), jnp.zeros(1, jnp.int32), truncate=False)
    assert tokens.tolist() == [1]
    np.testing.assert_allclose(logprobs, jax.nn.log_softmax(logits)[0, 1:2], rtol=1e-6)


def test_stop_tokens_wait_for_the_minimum_length():
    rows = rows_of(400, min_tokens=2, stop_tokens=(0, 2))
    logits = jnp.tile(jnp.asarray(LOGITS, jnp.float32), (400, 1))
    early, logprobs = draw(logits, rows, jnp.ones(400, jnp.int32), truncate=False)
    late, _ = draw(logits, rows, jnp.full(400, 2, jnp.int32), truncate=False)
    assert set(early.tolist()) == {1, 3} and set(late.tolist()) == {0, 1, 2, 3}
    np.testing.assert_allclose(logprobs, np.log(PROBABILITIES)[np.asarray(early)], rtol=1e-5)


def test_a_draw_depends_on_every_key_word_and_on_the_count():
    words = np.array([[1, 2, 3], [1, 2, 4], [1, 3, 3], [2, 2, 3], [1, 2, 3]])
    rows = rows_of(5, words=words)
    logits = jnp.zeros((5, 512))
    tokens = np.stack([draw(logits, rows, jnp.full(5, n, jnp.int32), truncate=False)[0] for n in range(4)])
    np.testing.assert_array_equal(tokens[:, 0], tokens[:, 4])
    assert len({tuple(column) for column in tokens.T}) == 4
    assert len({tuple(row) for row in tokens}) == 4


def test_nan_logits_give_a_nan_logprob_and_a_legal_token():
    tokens, logprobs = draw(jnp.full((1, 4), jnp.nan), rows_of(1), jnp.zeros(1, jnp.int32), truncate=False)
    assert 0 <= int(tokens[0]) < 4 and np.isnan(logprobs[0])


def test_stops_are_recognised_and_unused_places_match_nothing():
    stops = jnp.array([[3, 7, NO_STOP, NO_STOP], [NO_STOP] * 4])
    assert is_stop(jnp.array([7, 0]), stops).tolist() == [True, False]
