"""The engine's key/value cache: a pool of pages that rows of any length share, and two views of it for the layers.

A page holds `page` consecutive tokens of one row, in all layers. Pages against slots of full length: a short row
holds only what it fills, rows with the same beginning read the same pages, and moving a row costs nothing. Which
page belongs to whom is the host's affair (`decoding/pages.py`); page 0 is nobody's: idle rows write there.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from finemem_jax.nn.mesh import HEADS, current_mesh
from finemem_jax.nn.typed import Tree

SCRATCH = 0  # the page that idle rows write to


@flax.struct.dataclass
class PagePool(Tree):
    """Keys and values of all pages.

    Keys lie with their dimensions before their tokens where XLA multiplies them: a query then streams over
    consecutive tokens (32 rows of 384 tokens on a CPU: 4.6 ms instead of 6.8 ms a step). With `kernel_pages` they lie
    as Pallas' paged attention takes them, keys and values `[kv_heads, layers * pages, page, head_dim]`.
    """

    keys: Any  # [layers * pages, kv_heads, head_dim, page], rotated
    values: Any  # [layers * pages, kv_heads, page, head_dim]
    num_layers: int = flax.struct.field(pytree_node=False)
    kernel_pages: int = flax.struct.field(pytree_node=False, default=0)  # pages of the longest row; 0 = no kernel

    @classmethod
    def create(cls, cfg, pages: int, page: int, *, kernel_pages: int = 0) -> PagePool:
        """`pages` empty pages of `page` tokens for a model config, in its compute dtype."""
        blocks = cfg.num_layers * pages
        if kernel_pages:
            keys = values = (cfg.num_kv_heads, blocks, page, cfg.head_dim)
        else:
            keys = (blocks, cfg.num_kv_heads, cfg.head_dim, page)
            values = (blocks, cfg.num_kv_heads, page, cfg.head_dim)
        dtype = jnp.dtype(cfg.dtype)
        return cls(jnp.zeros(keys, dtype), jnp.zeros(values, dtype), cfg.num_layers, kernel_pages)

    @property
    def for_kernel(self) -> bool:
        return self.kernel_pages > 0

    @property
    def page(self) -> int:
        """Tokens per page."""
        return self.values.shape[-2]

    @property
    def pages(self) -> int:
        return self.values.shape[1 if self.for_kernel else 0] // self.num_layers

    def blocks(self, layer: int | Array, pages: Array) -> Array:
        """Where pages of a layer lie in the pool."""
        return layer * self.pages + pages

    def read(self, layer: Array, pages: Int[Array, "*shape"]) -> tuple[Array, Array]:
        """Keys `[*shape, kv_heads, head_dim, page]` and values `[*shape, kv_heads, page, head_dim]` of some pages."""
        blocks = self.blocks(layer, pages)
        if self.for_kernel:
            keys, values = (jnp.moveaxis(x[:, blocks], 0, -3) for x in (self.keys, self.values))
            return keys.swapaxes(-1, -2), values
        return _at(self.keys, blocks), _at(self.values, blocks)

    def write_token(
        self,
        layer: Array,
        pages: Int[Array, "rows"],
        offsets: Int[Array, "rows"],
        keys: Float[Array, "rows kv_heads head_dim"],
        values: Float[Array, "rows kv_heads head_dim"],
    ) -> PagePool:
        """The pool with one token per row written at an offset of a page of one layer."""
        blocks = self.blocks(layer, pages)
        keys, values = keys.astype(self.keys.dtype), values.astype(self.values.dtype)
        if self.for_kernel:
            write = _write_rows
            if (mesh := current_mesh()) is not None:
                heads, whole = PartitionSpec(HEADS), PartitionSpec()
                write = jax.shard_map(
                    write, mesh=mesh, in_specs=(heads, heads, whole, whole), out_specs=heads, check_vma=False
                )
            return self.replace(
                keys=write(self.keys, keys.swapaxes(0, 1), blocks, offsets),
                values=write(self.values, values.swapaxes(0, 1), blocks, offsets),
            )
        return self.replace(
            keys=self.keys.at[blocks, :, :, offsets].set(keys), values=self.values.at[blocks, :, offsets].set(values)
        )

    def write_pages(self, new: NewTokens, copies: PageCopies) -> PagePool:
        """The pool with whole pages of a prefill copied into it. A loop over the copies in use touches only what is
        copied, in place, and compiles once for any number of them."""
        layers, rows, seq, kv_heads, head_dim = new.keys.shape
        cut = (layers, rows * (seq // self.page), self.page, kv_heads, head_dim)
        keys, values = new.keys.reshape(cut), new.values.reshape(cut)
        order = (2, 0, 1, 3) if self.for_kernel else (0, 2, 1, 3)  # from [layers, page, kv_heads, head_dim]

        def copy(i: Array, pool: PagePool) -> PagePool:
            def placed(old: Array, source: Array, order: tuple[int, ...]) -> Array:
                block = jax.lax.dynamic_index_in_dim(source, copies.source[i], 1, keepdims=False)
                block = block.transpose(order).astype(old.dtype)
                if pool.for_kernel:
                    by_layer = old.reshape(kv_heads, layers, pool.pages, pool.page, head_dim)
                    block, start = block[:, :, None], (0, 0, copies.page[i], 0, 0)
                else:
                    by_layer = old.reshape(layers, pool.pages, *old.shape[1:])
                    block, start = block[:, None], (0, copies.page[i], 0, 0, 0)
                return jax.lax.dynamic_update_slice(by_layer, block, start).reshape(old.shape)

            key_order = order if pool.for_kernel else (0, 2, 3, 1)
            return pool.replace(keys=placed(pool.keys, keys, key_order), values=placed(pool.values, values, order))

        return jax.lax.fori_loop(0, copies.n, copy, self)


def _write_rows(
    pool: Float[Array, "kv_heads blocks page head_dim"],
    new: Float[Array, "kv_heads rows head_dim"],
    blocks: Int[Array, "rows"],
    offsets: Int[Array, "rows"],
) -> Float[Array, "kv_heads blocks page head_dim"]:
    """The pool with one token per row written, as lines of a table.

    Indexed as the four axes that it has, the TPU compiler would write in another layout than the kernel reads, and
    copy the whole pool in every layer of every token.
    """
    kv_heads, count, page, head_dim = pool.shape
    lines = (jnp.arange(kv_heads)[:, None] * count + blocks) * page + offsets
    return pool.reshape(-1, head_dim).at[lines].set(new).reshape(pool.shape)


def _at(pool: Array, blocks: Array) -> Array:
    return pool.at[blocks].get(mode="promise_in_bounds")


@flax.struct.dataclass
class PageCopies:
    """Which pages of a prefill go where; entry i of n."""

    n: Any  # [] int32: entries in use
    source: Any  # [entries] int32: row * (seq / page) + page in the row
    page: Any  # [entries] int32: page of the pool


@flax.struct.dataclass
class NewTokens:
    """Keys and values that a prefill made, `[layers, rows, seq, kv_heads, head_dim]`, rotated."""

    keys: Any
    values: Any


@flax.struct.dataclass
class PrefillCache:
    """For a prefill: the rows' tokens before this call, whole pages of the pool."""

    pool: PagePool
    pages: Any  # [rows, past pages] int32; unused places name any page
    lengths: Any  # [rows] int32: tokens in them, a multiple of the page

    def read(self, layer: Array) -> tuple[Array, Array, Array] | None:
        """Keys, values `[rows, past, kv_heads, head_dim]` and segment ids (1 where valid) `[rows, past]`; None where
        no row has a past."""
        rows, count = self.pages.shape
        if not count:
            return None
        keys, values = self.pool.read(layer, self.pages)
        past = (rows, count * self.pool.page, *values.shape[2:3], values.shape[-1])
        keys = keys.transpose(0, 1, 4, 2, 3).reshape(past)
        values = values.transpose(0, 1, 3, 2, 4).reshape(past)
        return keys, values, (jnp.arange(past[1]) < self.lengths[:, None]).astype(jnp.int32)

    def append(self, keys: Array, values: Array, segment_ids: Array) -> NewTokens:
        """What the call adds; the caller decides which pages it goes to."""
        return NewTokens(keys, values)


@flax.struct.dataclass
class DecodeCache(Tree):
    """For a decode step: every row's pages as one list, so that attention costs what is filled and no more.

    The pages of a row are consecutive in the list and cover the tokens up to the one being fed.
    """

    pool: PagePool
    pages: Any  # [listed] int32
    rows: Any  # [listed] int32: whose page it is; the number of rows where the place is unused
    starts: Any  # [listed] int32: place of the page's first token in its row
    first: Any  # [rows] int32: place of the row's first page in the list
    lengths: Any  # [rows] int32: tokens before the one being fed
    is_active: Any  # [rows] bool: idle rows write to the scratch page and their result is not used

    def write(
        self, layer: Array, keys: Float[Array, "rows kv_heads head_dim"], values: Float[Array, "rows kv_heads head_dim"]
    ) -> DecodeCache:
        """The cache with the fed tokens of a layer behind their rows."""
        page = self.pool.page
        pages = jnp.where(self.is_active, self.pages[self.first + self.lengths // page], SCRATCH)
        return self.replace(pool=self.pool.write_token(layer, pages, self.lengths % page, keys, values))
