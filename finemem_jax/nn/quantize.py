"""Weight-only int8: each output channel of a matmul as integers and one scale. For decoding, which reads all weights
for every token; `Linear` and `Embedding` multiply the scale back in.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

SCALES = {"kernel": ("kernel_scale", -2), "table": ("table_scale", -1)}  # name of the scales, axis they are taken over


def quantized(params: Any) -> Any:
    """The tree with every kernel `[…, in, out]` and embedding table `[vocab, embed]` as int8 and a float32 scale per
    output channel beside it (w ≈ int8 * scale, |error| ≤ scale / 2); everything else as it was."""
    if not isinstance(params, dict):
        return params
    tree = {}
    for name, value in params.items():
        if name in SCALES:
            scale_name, axis = SCALES[name]
            tree[name], tree[scale_name] = _rounded(value, axis)
        else:
            tree[name] = quantized(value)
    return tree


def _rounded(weights: Array, axis: int) -> tuple[Array, Array]:
    weights = weights.astype(jnp.float32)
    largest = jnp.max(jnp.abs(weights), axis=axis, keepdims=True)
    scale = jnp.where(largest > 0, largest / 127.0, 1.0)
    return jnp.round(weights / scale).astype(jnp.int8), jnp.squeeze(scale, axis)
