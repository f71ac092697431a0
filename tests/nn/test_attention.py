"""Every implementation of attention against one plain reference: loops over tokens, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.nn import splash
from finemem_jax.nn.attention import attention, attention_on, splash_of_pieces
from finemem_jax.nn.blockwise import PREFIX, blockwise_attention
from finemem_jax.nn.mesh import on_mesh
from finemem_jax.nn.sharding import make_mesh

# Rows of several segments, one that is full, one with padding behind, one of padding alone.
SEGMENTS = np.array([[1] * 13 + [2] * 20 + [3] * 7, [1] * 40, [1] * 3 + [2] * 25 + [0] * 12, [0] * 40], np.int32)


def arrays(heads=4, kv_heads=2, head_dim=8, seed=0, segments=SEGMENTS):
    rng = np.random.default_rng(seed)
    shapes = [(*segments.shape, h, head_dim) for h in (heads, kv_heads, kv_heads, heads)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def slow_attention(q, k, v, d_out, segments=SEGMENTS):
    """Output and gradients, one query at a time; what padding gives is left at 0."""
    q, k, v, d_out = (x.astype(np.float64) for x in (q, k, v, d_out))
    out, dq, dk, dv = (np.zeros_like(x) for x in (q, q, k, v))
    group = q.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(q.shape[:3]):
        if segments[b, t] == 0:
            continue
        prefix = segments[b, t] // PREFIX or -1
        seen = [s for s in range(t + 1) if segments[b, s] in (segments[b, t], prefix)]
        keys, values = k[b, seen, h // group], v[b, seen, h // group]
        p = np.exp(keys @ q[b, t, h] / np.sqrt(q.shape[-1]))
        p /= p.sum()
        out[b, t, h] = p @ values
        dp = values @ d_out[b, t, h]
        ds = p * (dp - p @ dp) / np.sqrt(q.shape[-1])
        dq[b, t, h] = ds @ keys
        dk[b, seen, h // group] += np.outer(ds, q[b, t, h])
        dv[b, seen, h // group] += np.outer(p, d_out[b, t, h])
    return out, dq, dk, dv


def output_and_gradients(attend, q, k, v, d_out, segments=SEGMENTS):
    """Of the tokens that are not padding."""
    is_token = (segments > 0)[:, :, None, None]

    @jax.jit
    def run(q, k, v):
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, jnp.asarray(segments)), q, k, v)
        return out, pull(d_out * is_token)

    out, gradients = run(q, k, v)
    return np.where(is_token, out, 0), *gradients


@pytest.mark.parametrize(
    "attend",
    [attention, *(lambda q, k, v, s, block=block: blockwise_attention(q, k, v, s, block) for block in (8, 16, 40, 64))],
    ids=["attention", "block 8", "block 16", "block 40", "block 64"],
)
def test_output_and_gradients_equal_the_reference(attend):
    given = arrays()
    found, expected = output_and_gradients(attend, *given), slow_attention(*given)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(b).max() > 0.5


# Two prefixes with three and two segments that go on from them, beside segments without; and a long one.
SHARED = np.array(
    [
        [1] * 9 + [2 + PREFIX] * 4 + [3 + PREFIX] * 7 + [4 + PREFIX] * 1 + [5] * 6 + [6 + 5 * PREFIX] * 5 + [7] * 8,
        [1] * 2 + [2] * 20 + [3 + 2 * PREFIX] * 3 + [4 + 2 * PREFIX] * 11 + [0] * 4,
        [1] * 40,
    ],
    np.int32,
)


@pytest.mark.parametrize("block", [4, 8, 16, 64])
def test_segments_that_go_on_from_a_prefix_see_it_and_not_each_other(block):
    given = arrays(segments=SHARED)
    attend = lambda q, k, v, s: blockwise_attention(q, k, v, s, block)  # noqa: E731
    found, expected = output_and_gradients(attend, *given, SHARED), slow_attention(*given, SHARED)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_rows_with_prefixes_split_over_devices_equal_the_reference():
    mesh, given = make_mesh(data=1, sequence=4, tensor=2), arrays(segments=SHARED)

    def attend(q, k, v, segment_ids):
        with on_mesh(mesh):
            return attention(q, k, v, segment_ids)

    for a, b in zip(output_and_gradients(attend, *given, SHARED), slow_attention(*given, SHARED), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_one_kv_head_or_as_many_as_heads(kv_heads):
    given = arrays(kv_heads=kv_heads, seed=1)
    attend = lambda q, k, v, s: blockwise_attention(q, k, v, s, 16)  # noqa: E731
    for a, b in zip(output_and_gradients(attend, *given), slow_attention(*given), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_pallas_kernel_equals_the_reference():
    """Splash attention by Pallas' interpreter: five blocks of queries, segments end within blocks, heads are shared."""
    segments = np.array([[1] * 100 + [2] * 200 + [3] * 84 + [4] * 256, [1] * 500 + [2] * 70 + [0] * 70], np.int32)
    assert splash.is_supported(segments.shape[1], 128)
    attend = functools.partial(splash.splash_attention, interpret=True)
    given = arrays(heads=4, kv_heads=2, head_dim=128, segments=segments)
    found, expected = output_and_gradients(attend, *given, segments), slow_attention(*given, segments)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(b).max() > 0.5


@pytest.mark.parametrize("axes", [{"sequence": 2, "tensor": 4}, {"data": 2, "sequence": 4}], ids=str)
@pytest.mark.parametrize("kernel", ["loop", "splash"])
def test_rows_split_over_devices_equal_the_reference(kernel, axes):
    """Two kv heads, so that with four ways of tensor each device picks its own; pieces end within segments."""
    segments = np.array([[1] * 100 + [2] * 300 + [3] * 112, [1] * 400 + [2] * 50 + [0] * 62], np.int32)
    mesh = make_mesh(**{"data": 1, **axes})
    given = arrays(heads=4, kv_heads=2, head_dim=128, segments=segments)

    def attend(q, k, v, segment_ids):
        if kernel == "splash":
            return attention_on(mesh, splash_of_pieces(q, mesh, interpret=True), q, k, v, segment_ids)
        with on_mesh(mesh):
            return attention(q, k, v, segment_ids)

    found, expected = output_and_gradients(attend, *given, segments), slow_attention(*given, segments)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_padding_stays_finite_and_bfloat16_stays_bfloat16():
    q, k, v, _ = (jnp.asarray(x, jnp.bfloat16) * 30 for x in arrays())
    out, pull = jax.vjp(lambda q, k, v: attention(q, k, v, jnp.asarray(SEGMENTS)), q, k, v)
    assert out.dtype == jnp.bfloat16 and np.isfinite(np.float32(out)).all()
    for gradient in pull(jnp.ones_like(out)):
        assert gradient.dtype == jnp.bfloat16 and np.isfinite(np.float32(gradient)).all()


def test_no_array_of_all_queries_by_all_keys_exists():
    """In the gradient of rows of 512 tokens nothing has more elements than one block's scores or the queries."""
    shape = (1, 512, 2, 4)
    segments = jnp.ones((1, 512), jnp.int32)

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, segments))

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for value in equation.params.values():
                for sub in value if isinstance(value, (tuple, list)) else (value,):
                    if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                        yield from sizes(getattr(sub, "jaxpr", sub))

    traced = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*(jnp.zeros(shape) for _ in range(3)))
    assert max(sizes(traced.jaxpr)) <= 512 * 2 * 4
