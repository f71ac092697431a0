"""Attention of one new token per row to the pages of its row: XLA anywhere, a Pallas kernel on TPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from finemem_jax.nn.attention import MASKED
from finemem_jax.nn.paged_cache import DecodeCache


def decode_attention(
    q: Float[Array, "rows heads head_dim"], cache: DecodeCache, layer: Array
) -> Float[Array, "rows heads head_dim"]:
    """Softmax attention of each row's query to its first `lengths + 1` tokens in the pool.

    Scores and softmax in float32; the result has the dtype of the pool. Idle rows: unspecified, but finite.
    """
    return _by_page(q, cache, layer)


def _by_page(q: Array, cache: DecodeCache, layer: Array) -> Array:
    """Each listed page alone, then the pages of a row put together, weighted by their share of the softmax.

    The work is the number of listed pages, whatever the lengths of the rows: padding the short rows to the longest
    would read everything as often as the longest row needs.
    """
    rows, heads, head_dim = q.shape
    keys, values = cache.pool.read(layer, cache.pages)  # [listed, kv_heads, head_dim, page] and its transpose
    listed, kv_heads, _, page = keys.shape
    own = cache.rows.clip(0, rows - 1)
    grouped = q.reshape(rows, kv_heads, heads // kv_heads, head_dim)[own].astype(keys.dtype)
    scores = jnp.einsum("wkgd,wkdp->wkgp", grouped, keys, preferred_element_type=jnp.float32) * head_dim**-0.5
    is_used = (cache.rows < rows)[:, None]
    is_filled = is_used & (cache.starts[:, None] + jnp.arange(page) <= cache.lengths[own][:, None])
    scores = jnp.where(is_filled[:, None, None], scores, MASKED)

    is_own = cache.rows == jnp.arange(rows)[:, None]  # [rows, listed]
    page_max = jnp.max(scores, axis=-1)  # [listed, kv_heads, group]
    row_max = jnp.max(jnp.where(is_own[:, :, None, None], page_max, MASKED), axis=1)
    weights = jnp.where(is_filled[:, None, None], jnp.exp(scores - row_max[own][..., None]), 0.0)
    mixed = jnp.einsum("wkgp,wkpd->wkgd", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)

    def of_rows(x: Array) -> Array:  # [listed, n] -> [rows, n]: a sum over each row's pages, as one matmul
        return jnp.matmul(is_own.astype(jnp.float32), x, precision=jax.lax.Precision.HIGHEST)

    total = of_rows(jnp.sum(weights, axis=-1).reshape(listed, heads))[..., None]
    out = of_rows(mixed.reshape(listed, heads * head_dim)).reshape(rows, heads, head_dim)
    return (out / jnp.maximum(total, 1e-30)).astype(values.dtype)
