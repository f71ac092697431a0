"""Attention of one new token per row to the pages of its row: XLA anywhere, a Pallas kernel on TPUs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from finemem_jax.nn.attention import MASKED
from finemem_jax.nn.mesh import HEADS, current_mesh
from finemem_jax.nn.paged_cache import SCRATCH, DecodeCache


def decode_attention(
    q: Float[Array, "rows heads head_dim"], cache: DecodeCache, layer: Array
) -> Float[Array, "rows heads head_dim"]:
    """Softmax attention of each row's query to its first `lengths + 1` tokens in the pool.

    Scores and softmax in float32; the result has the dtype of the pool. Idle rows: unspecified, but finite.
    """
    return (_by_kernel if cache.pool.for_kernel else _by_page)(q, cache, layer)


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


# ---- Pallas' kernel on TPUs ----

KERNEL_TOKENS = 512  # keys per block of the kernel


def kernel_pages(platform: str, cfg, page: int, longest: int) -> int:
    """Pages of the longest row, as the kernel takes them; 0 where XLA attends: not on a TPU, or head_dim or page not
    as the kernel's tiles need them."""
    if platform != "tpu" or cfg.head_dim % 128 or page % 16:
        return 0
    per_block = max(1, KERNEL_TOKENS // page)
    return -(-longest // (page * per_block)) * per_block


def _by_kernel(q: Array, cache: DecodeCache, layer: Array) -> Array:
    """The pages of each row as a table, read in place: what is not filled is not read."""
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention  # slow to load

    pool = cache.pool
    order = jnp.arange(pool.kernel_pages)
    is_filled = order <= (cache.lengths // pool.page)[:, None]
    listed = jnp.minimum(cache.first[:, None] + order, len(cache.pages) - 1)
    blocks = pool.blocks(layer, jnp.where(is_filled, cache.pages[listed], SCRATCH))
    attend = functools.partial(
        paged_attention,
        pages_per_compute_block=min(max(1, KERNEL_TOKENS // pool.page), pool.kernel_pages),
    )
    mesh = current_mesh()
    if mesh is not None:
        whole, heads = PartitionSpec(), PartitionSpec(None, HEADS)
        specs = (heads, PartitionSpec(HEADS), PartitionSpec(HEADS), whole, whole)
        # Not checked: the kernel does not say over which axes its result varies.
        attend = jax.shard_map(attend, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)
    # The kernel does not scale; in float32, because head_dim ** -0.5 of 128 would round every bfloat16 query.
    scaled = q.astype(jnp.float32) * q.shape[-1] ** -0.5
    return attend(scaled, pool.keys, pool.values, cache.lengths + 1, blocks).astype(pool.values.dtype)
