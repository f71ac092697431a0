"""The key/value cache: an immutable value that goes into `model.apply` and comes out longer.

Layers only read it. Each layer attends to the cached slots and to the call's own keys, and hands those back;
`append` then writes the new keys of all layers at once. So a decode step updates the cache in place when its
owner donates it, instead of copying `[rows, capacity]` once per layer.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class KVCache:
    """Keys and values of the tokens fed so far, in order of arrival; slot `lengths[row]` is the next to be written.

    A slot's `segment_ids` is 0 until it is written, so an empty slot is never attended to. The caller keeps
    `lengths + new tokens <= capacity`; tokens beyond the capacity are not stored.
    """

    keys: Any  # [layers, rows, capacity, kv_heads, head_dim], rotated
    values: Any  # [layers, rows, capacity, kv_heads, head_dim]
    segment_ids: Any  # [rows, capacity] int32
    lengths: Any  # [rows] int32

    @classmethod
    def create(cls, cfg, rows: int, capacity: int, dtype=None) -> KVCache:
        """An empty cache for a model config; `dtype` defaults to the compute dtype."""
        shape = (cfg.num_layers, rows, capacity, cfg.num_kv_heads, cfg.head_dim)
        dtype = jnp.dtype(dtype or cfg.dtype)
        return cls(
            keys=jnp.zeros(shape, dtype),
            values=jnp.zeros(shape, dtype),
            segment_ids=jnp.zeros((rows, capacity), jnp.int32),
            lengths=jnp.zeros((rows,), jnp.int32),
        )

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.segment_ids.shape[1]

    def append(
        self,
        keys: Float[Array, "layers rows new kv_heads head_dim"],
        values: Float[Array, "layers rows new kv_heads head_dim"],
        segment_ids: Int[Array, "rows new"],
    ) -> KVCache:
        """The cache with the call's valid tokens (segment not 0) written behind each row's last."""
        rows, new = segment_ids.shape
        valid = segment_ids != 0
        slots = self.lengths[:, None] + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
        slots = jnp.where(valid, slots, self.capacity)  # out of bounds: dropped
        row = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32)[:, None], (rows, new))
        where = {"mode": "drop", "unique_indices": False}
        return KVCache(
            keys=self.keys.at[:, row, slots].set(keys.astype(self.keys.dtype), **where),
            values=self.values.at[:, row, slots].set(values.astype(self.values.dtype), **where),
            segment_ids=self.segment_ids.at[row, slots].set(segment_ids.astype(jnp.int32), **where),
            lengths=self.lengths + jnp.sum(valid, axis=1, dtype=jnp.int32),
        )

    def read(self, layer: Array, attend_to: int) -> tuple[Array, Array, Array] | None:
        """Keys, values `[rows, attend_to, kv_heads, head_dim]` and segment ids `[rows, attend_to]` of one layer's
        first slots; None for none."""
        if attend_to == 0:
            return None
        keys, values = (
            jax.lax.dynamic_index_in_dim(x[:, :, :attend_to], layer, 0, keepdims=False)
            for x in (self.keys, self.values)
        )
        return keys, values, self.segment_ids[:, :attend_to]
