"""The shared transformer against slow formulas and against itself in other arrangements."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.config import plugins, resolve
from finemem_jax.nn.attention import attention
from finemem_jax.nn.kv_cache import KVCache
from finemem_jax.nn.layers import RopeScaling, abstract_params, matmul, rope_frequencies
from finemem_jax.nn.sharding import init_params

FAMILIES = plugins("finemem_jax.models")
VOCAB = 61
SEQ = 12


@functools.cache
def _build(family: str):
    module = resolve("finemem_jax.models", family)
    cfg = dataclasses.replace(module.PRESETS["tiny"], vocab_size=VOCAB, num_layers=2)
    model = module.Model(cfg)
    params = init_params(model, jax.random.key(0))
    # Larger weights than at initialisation: attention that is nearly uniform would hide a wrong mask.
    params = jax.tree.map(
        lambda x: x * 3 if x.ndim > 2 else x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params
    )
    return model, params, jax.jit(model.apply, static_argnames=("attend_to", "method"))


def _rows():
    """tokens, positions, segment_ids: full, right-padded, left-padded, two packed segments, all padding."""
    tokens = np.random.default_rng(0).integers(0, VOCAB, (5, SEQ)).astype(np.int32)
    segments = np.ones((5, SEQ), np.int32)
    segments[1, 8:] = 0
    segments[2, :3] = 0
    segments[3, 5:] = 2
    segments[4] = 0
    positions = np.tile(np.arange(SEQ, dtype=np.int32), (5, 1))
    positions[2] = np.maximum(positions[2] - 3, 0)
    positions[3, 5:] -= 5
    return tokens, positions, segments


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_rows_equal_each_sequence_alone(family):
    _, params, apply = _build(family)
    tokens, positions, segments = _rows()
    logits = apply({"params": params}, tokens, positions, segments)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()  # the row of padding too
    for row, columns in [(1, slice(0, 8)), (2, slice(3, SEQ)), (3, slice(0, 5)), (3, slice(5, SEQ))]:
        length = columns.stop - columns.start
        sequence = np.zeros((5, SEQ), np.int32)
        sequence[0, :length] = tokens[row, columns]
        valid = np.arange(SEQ)[None] < np.array([length, 0, 0, 0, 0])[:, None]
        alone = apply({"params": params}, sequence, np.tile(np.arange(SEQ), (5, 1)), valid.astype(np.int32))
        np.testing.assert_allclose(logits[row, columns], alone[0, :length], atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_sees_earlier_tokens_of_its_segment_only(family):
    _, params, apply = _build(family)
    tokens, positions, segments = _rows()
    before = np.asarray(apply({"params": params}, tokens, positions, segments))
    changed = tokens.copy()
    changed[:, 4] = (changed[:, 4] + 1) % VOCAB
    after = np.asarray(apply({"params": params}, changed, positions, segments))
    moved = np.abs(before - after).max(-1) > 1e-6
    assert moved[0, 4:].all() and not moved[0, :4].any()
    assert moved[3, 4] and not moved[3, 5:].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", [(12,), (7, 1, 1, 3), (1,) * 12], ids=str)
def test_any_split_of_prefill_and_decode_equals_the_full_forward(family, split):
    model, params, apply = _build(family)
    tokens, positions, segments = _rows()
    full = np.asarray(apply({"params": params}, tokens, positions, segments))
    cache = KVCache.create(model.cfg, 5, 16)
    pieces, start = [], 0
    for length in split:
        part = np.s_[:, start : start + length]
        attend_to = 0 if start == 0 else 16  # the first call has nothing behind it
        logits, cache = apply(
            {"params": params}, tokens[part], positions[part], segments[part], cache=cache, attend_to=attend_to
        )
        pieces.append(logits)
        start += length
    valid = segments != 0
    np.testing.assert_array_equal(cache.lengths, valid.sum(1))
    for row in range(5):  # stored from slot 0 on, in order of arrival, padding left out
        stored = segments[row][valid[row]]
        np.testing.assert_array_equal(cache.segment_ids[row], np.pad(stored, (0, 16 - len(stored))))
    np.testing.assert_allclose(np.concatenate(pieces, 1)[valid], full[valid], atol=2e-5)
    assert np.isfinite(np.concatenate(pieces, 1)).all()


def test_rows_of_a_call_may_bring_different_numbers_of_tokens():
    model, params, apply = _build("qwen3")
    tokens = np.random.default_rng(1).integers(0, VOCAB, (5, SEQ)).astype(np.int32)
    positions = np.tile(np.arange(SEQ, dtype=np.int32), (5, 1))
    full = np.asarray(apply({"params": params}, tokens, positions, np.ones_like(tokens)))
    cache = KVCache.create(model.cfg, 5, 16)
    lengths = np.array([7, 5, 3, 1, 0])
    valid = (np.arange(7)[None] < lengths[:, None]).astype(np.int32)
    logits, cache = apply({"params": params}, tokens[:, :7], positions[:, :7], valid, cache=cache, attend_to=0)
    np.testing.assert_array_equal(cache.lengths, lengths)
    np.testing.assert_allclose(np.asarray(logits)[valid == 1], full[:, :7][valid == 1], atol=2e-5)
    for _ in range(3):  # each row goes on from its own length; a bucket of 16 slots covers them all
        at = np.asarray(cache.lengths)[:, None]
        step = (np.take_along_axis(tokens, at, 1), at, np.ones((5, 1), np.int32))
        logits, cache = apply({"params": params}, *step, cache=cache, attend_to=16)
        np.testing.assert_allclose(logits[:, 0], np.take_along_axis(full, at[..., None], 1)[:, 0], atol=2e-5)


def test_attending_to_the_filled_prefix_equals_attending_to_all():
    model, params, apply = _build("qwen3")
    tokens, positions, _ = _rows()
    ones = np.ones_like(tokens)
    cache = KVCache.create(model.cfg, 5, 64)
    _, cache = apply({"params": params}, tokens, positions, ones, cache=cache, attend_to=0)
    step = (tokens[:, :1], np.full((5, 1), SEQ), ones[:, :1])
    wide, _ = apply({"params": params}, *step, cache=cache, attend_to=None)
    narrow, _ = apply({"params": params}, *step, cache=cache, attend_to=SEQ)
    cut, _ = apply({"params": params}, *step, cache=cache, attend_to=SEQ - 4)
    np.testing.assert_allclose(wide, narrow, atol=1e-5)
    assert np.abs(wide - cut).max() > 1e-3  # the slots left out do matter


@pytest.mark.parametrize("untied", [False, True])
def test_hidden_states_then_unembed_is_the_whole_model(untied):
    module = resolve("finemem_jax.models", "qwen3")
    cfg = dataclasses.replace(module.PRESETS["tiny"], vocab_size=VOCAB, num_layers=2, tie_word_embeddings=not untied)
    model = module.Model(cfg)
    apply = jax.jit(model.apply, static_argnames="method")
    params = {"params": init_params(model, jax.random.key(0))}
    assert ("lm_head" in params["params"]) == untied
    rows = _rows()
    hidden = apply(params, *rows, method="hidden_states")
    assert hidden.shape == (5, SEQ, cfg.hidden_size)
    np.testing.assert_allclose(apply(params, hidden, method="unembed"), apply(params, *rows), atol=1e-6)


def test_the_program_is_as_long_for_48_layers_as_for_2():
    model, _, _ = _build("qwen3")
    inputs = [jax.ShapeDtypeStruct((2, 4), jnp.int32)] * 3

    def equations(layers):
        deep = type(model)(dataclasses.replace(model.cfg, num_layers=layers))
        return str(jax.make_jaxpr(deep.apply)({"params": abstract_params(deep)}, *inputs)).count("\n")

    assert equations(48) == equations(2)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialisation_changes_no_gradient(remat):
    model, params, _ = _build("qwen3")
    again = type(model)(dataclasses.replace(model.cfg, remat=remat))
    tokens, positions, segments = _rows()

    def loss(params, model):
        return jnp.mean(model.apply({"params": params}, tokens, positions, segments) ** 2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6, rtol=1e-5),
        gradient(params, model),
        gradient(params, again),
    )
    assert "remat" not in str(jax.make_jaxpr(loss, static_argnums=1)(params, model))
    assert "remat" in str(jax.make_jaxpr(loss, static_argnums=1)(params, again))


def test_bfloat16_compute_keeps_float32_logits_and_stays_near():
    model, params, apply = _build("qwen3")
    low = type(model)(dataclasses.replace(model.cfg, dtype="bfloat16"))
    tokens, positions, segments = _rows()
    logits = jax.jit(low.apply)({"params": params}, tokens, positions, segments)
    assert logits.dtype == jnp.float32
    full = apply({"params": params}, tokens, positions, segments)
    error = np.abs(np.asarray(logits - full))[segments != 0].max()
    assert 1e-6 < error < 0.05 * np.abs(full).max()


@pytest.mark.parametrize("untied", [False, True])
def test_the_head_sums_and_keeps_its_logits_in_float32(untied):
    """Rounded to bfloat16, logits of 20 are a multiple of 1/8: neighbours in probability become equal."""
    module = resolve("finemem_jax.models", "qwen3")
    cfg = dataclasses.replace(
        module.PRESETS["tiny"], vocab_size=VOCAB, num_layers=1, dtype="bfloat16", tie_word_embeddings=not untied
    )
    model = module.Model(cfg)
    params = jax.tree.map(lambda x: 20 * x, init_params(model, jax.random.key(0)))
    hidden = jax.random.normal(jax.random.key(1), (2, SEQ, cfg.hidden_size), jnp.bfloat16)
    logits = jax.jit(functools.partial(model.apply, method="unembed"))({"params": params}, hidden)
    head = params["lm_head"]["kernel"] if untied else params["embedding"]["table"].T
    exact = np.asarray(hidden, np.float64) @ np.asarray(head.astype(jnp.bfloat16), np.float64)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-4)
    assert np.abs(exact - exact.astype(jnp.bfloat16).astype(np.float64)).max() > 1e-2  # what rounding would do

    def loss(params):
        return jnp.sum(model.apply({"params": params}, hidden, method="unembed") * jnp.cos(exact))

    gradient = jax.grad(loss)(params)
    found = gradient["lm_head"]["kernel"] if untied else gradient["embedding"]["table"].T
    by_hand = np.einsum("rse,rsv->ev", np.asarray(hidden, np.float64), np.cos(exact))
    np.testing.assert_allclose(found, by_hand, atol=0.02 * np.abs(by_hand).max())


@pytest.mark.parametrize("past", [0, 9])
@pytest.mark.parametrize("queries", [1, 5])
def test_attention_equals_the_slow_formula(past, queries):
    rng = np.random.default_rng(2)
    rows, heads, kv_heads, dim = 3, 6, 2, 4
    q = rng.normal(size=(rows, queries, heads, dim)).astype(np.float32)
    k, v = rng.normal(size=(2, rows, past + queries, kv_heads, dim)).astype(np.float32)
    segments = np.sort(rng.integers(1, 3, (rows, past + queries)), axis=1).astype(np.int32)
    before, new = ([jnp.asarray(x[part]) for x in (k, v, segments)] for part in (np.s_[:, :past], np.s_[:, past:]))
    cache = KVCache(jnp.stack([9 + before[0], before[0]]), jnp.stack([9 + before[1], before[1]]), before[2], None)
    out = attention(jnp.asarray(q), *new, cache.read(jnp.int32(1), past))
    for row in range(rows):
        for i in range(queries):
            for head in range(heads):
                seen = [j for j in range(past + i + 1) if segments[row, j] == segments[row, past + i]]
                kv = head // (heads // kv_heads)
                scores = [math.exp(q[row, i, head] @ k[row, j, kv] / math.sqrt(dim)) for j in seen]
                mean = sum(s * v[row, j, kv] for s, j in zip(scores, seen, strict=True)) / sum(scores)
                np.testing.assert_allclose(out[row, i, head], mean, atol=1e-5)


def test_llama3_frequencies_are_kept_blended_and_stretched():
    module = resolve("finemem_jax.models", "llama3")
    cfg = module.PRESETS["3.2-1b"]
    plain = rope_frequencies(dataclasses.replace(cfg, rope_scaling=None))
    scaled = rope_frequencies(cfg)
    assert isinstance(cfg.rope_scaling, RopeScaling)
    for base, frequency in zip(plain, scaled, strict=True):
        wavelength = 2 * math.pi / base
        if wavelength < 8192 / 4:
            expected = base
        elif wavelength > 8192 / 1:
            expected = base / 32
        else:
            share = (8192 / wavelength - 1) / (4 - 1)
            expected = (1 - share) * base / 32 + share * base
        np.testing.assert_allclose(frequency, expected, rtol=1e-5)
    assert scaled[0] == plain[0] and scaled[-1] < plain[-1] / 31


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradients_of_a_projection_are_those_of_the_plain_product(dtype):
    rng = np.random.default_rng(0)
    x, kernel, given = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((2, 5, 3), (3, 7), (2, 5, 7)))
    out, pull = jax.vjp(matmul, x, kernel)
    expected, plain_pull = jax.vjp(lambda x, kernel: x @ kernel, x, kernel)
    np.testing.assert_array_equal(out, expected)
    for found, plain in zip(pull(given), plain_pull(given), strict=True):
        assert found.dtype == plain.dtype
        tolerance = 1e-6 if dtype == "float32" else 0.02
        np.testing.assert_allclose(found.astype("float32"), plain.astype("float32"), rtol=tolerance, atol=tolerance)
