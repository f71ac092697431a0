"""What memory in fast weights costs a run: bytes of B in the engine, in the update and on the host, work of a write."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finemem_jax.config import Config
from finemem_jax.nn.fast_weights import PROJECTIONS, FastSetup, memory_bytes, memory_shapes
from finemem_jax.nn.layers import abstract_params
from finemem_jax.nn.lora import without_adapters

WRITES = 4  # of a rollout: a history of 16,384 tokens at the paper's context


def planned_fast(cfg: Config, model: Any) -> FastSetup | None:
    """The setup of a run with the config, A of zeros; None without fast weights."""
    fast, c = cfg.method.fast, model.cfg
    if not fast.rank:
        return None
    sizes = (c.hidden_size, c.hidden_size, c.intermediate_size)
    basis = {
        name: np.zeros((fast.layers, size, fast.rank), np.float32)
        for name, size in zip(PROJECTIONS, sizes, strict=True)
    }
    return FastSetup(fast, basis)


def memory_arrays(cfg: Config, model: Any, *owners: int, sharding: Any = None) -> Any:
    """Shapes of B with the leading axes `owners`; None without fast weights."""
    if not cfg.method.fast.rank:
        return None
    return {
        name: jax.ShapeDtypeStruct((*owners, *shape), jnp.float32, sharding=sharding)
        for name, shape in memory_shapes(model.cfg, cfg.method.fast).items()
    }


def snapshots(cfg: Config, writes: float) -> float:
    """Snapshots of B that a training step keeps on the hosts, of all of them, at so many writes a rollout."""
    return cfg.train.episodes * cfg.train.group_size * writes


def resident_bytes(cfg: Config, shape: Any, devices: int, writes: float = WRITES) -> float:
    """Bytes on one device: the engine's places, and a mini-batch's rows, at least one for each snapshot and process.
    The larger of the two: the engine gives its own back before the update."""
    fast = cfg.method.fast
    if not fast.rank:
        return 0.0
    each = memory_bytes(shape, fast)
    rows = max(snapshots(cfg, writes) / cfg.train.mini_batches, cfg.train.microbatch_rows)
    return each * max(cfg.engine.slots + 1, rows / devices)


def write_flops(cfg: Config, model: Any) -> float:
    """Of one write that is as full as it may be: the layers below the last ones once; through these and the head two
    passes for the losses and `epochs` with a backward pass, which computes no gradient of a kernel."""
    fast, c = cfg.method.fast, model.cfg
    params = without_adapters(abstract_params(model))
    per_layer = sum(float(np.prod(x.shape[1:])) for x in jax.tree.leaves(params["layers"]))
    head = c.vocab_size * c.hidden_size
    tokens = fast.max_texts * fast.text_tokens
    below = 2 * (c.num_layers - fast.layers) * per_layer
    above = (2 * fast.layers * per_layer + 2 * head) * (2 + 2 * fast.epochs)
    return tokens * (below + above)


def fast_line(cfg: Config, model: Any, hosts: int, writes: float) -> str:
    """One line for rollouts with so many writes; "" without fast weights."""
    fast = cfg.method.fast
    if not fast.rank:
        return ""
    each, kept = memory_bytes(model.cfg, fast), snapshots(cfg, writes)
    return (
        f"  fast weights: {each / 1e6:.2f} MB of B a row, {each * (cfg.engine.slots + 1) / 1e6:.0f} MB for "
        f"{cfg.engine.slots} slots; at {writes:g} writes a rollout a step keeps {kept:.0f} snapshots, "
        f"{kept * each / hosts / 1e9:.2f} GB in the memory of each of {hosts} host(s); a full write of "
        f"{fast.max_texts} texts of {fast.text_tokens} tokens is {write_flops(cfg, model) / 1e12:.1f} TFLOP"
    )
