"""Will this run fit its devices? A formula, checked before weights are loaded and before anything is compiled.

What lies there all the time (parameters, moments, reference, the engine's copy) is counted exactly. What the update
needs besides is fitted to what XLA lays out for it on a CPU, within 10 % for the shapes of
tests/plan/test_formula.py, from 0.4 M to 600 M parameters. Not counted: the runtime itself and the host's memory
(0.6 to 0.8 GB of a process), and what XLA's CPU backend needs besides to read a bfloat16 cache in float32, twice the
cache. It is meant to catch a run that is too large by far; `finemem plan` measures.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from finemem_jax.config import Config, UserError, resolve
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.nn.layers import abstract_params
from finemem_jax.nn.lora import has_adapters, split_adapters
from finemem_jax.plan import fast
from finemem_jax.rollouts.packing import longest_row
from finemem_jax.weights import hf

GIB = 2**30
CACHE, UPDATE, FAST = "KV cache", "gradients and activations", "fast weights"


def check_memory(cfg: Config) -> None:
    """Raises UserError, with the parts and the knobs, when the run needs more than a device has.

    A model that is only a name on the hub is not checked: its shape is not known before it is downloaded."""
    shape = model_shape(cfg)
    if shape is None:
        return
    parts = memory_parts(cfg, shape, jax.device_count(), jax.local_device_count())
    need, there = peak(parts), device_bytes()
    if need <= there:
        return
    table = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    raise UserError(
        f"the run needs about {need / GIB:.1f} GiB per device ({table}) and there are {there / GIB:.1f}: more devices "
        "on config.mesh.fsdp, or smaller config.train.microbatch_rows, train.row_tokens, engine.slots or "
        "engine.cache_tokens, config.model.remat=full, config.model.lora.rank, config.loss.kl_coef=0"
    )


def model_shape(cfg: Config) -> Any | None:
    """The family's Config of the run's model; None where it is only known after a download, or the config is refused
    for another reason later."""
    if not (cfg.model.path or cfg.model.tokenizer):
        return None
    # Under a vocabulary of its own such a model has other embeddings, which hardly matter for a small one.
    if start := cfg.model.path or cfg.model.layers_from:
        folder = Path(tokenizers.resolve_path(start))
        return hf.read_config(folder)[1] if (folder / "config.json").is_file() else None
    return resolve("finemem_jax.models", cfg.model.family).PRESETS.get(cfg.model.preset)


def memory_parts(cfg: Config, shape: Any, devices: int, local: int) -> dict[str, float]:
    """Bytes on one device, by part. devices: of the run; local: those of one host, which decode together.

    CACHE is there in rollouts, UPDATE in the update, all other parts always."""
    shape = dataclasses.replace(shape, lora=cfg.model.lora)
    params = abstract_params(resolve("finemem_jax.models", shape.family).Model(shape))
    whole = _count(params)
    stored, size = jnp.dtype(cfg.model.param_dtype).itemsize, jnp.dtype(cfg.model.dtype).itemsize
    trained = _count(split_adapters(params)[1]) if has_adapters(params) else whole
    ways, heads_ways = _ways(cfg, devices), math.gcd(local, shape.num_kv_heads)
    is_copied = size != stored or devices > 1  # the engine reads the parameters as they lie, or a copy of its own
    each = math.ceil(cfg.engine.cache_tokens / cfg.engine.page_tokens) * cfg.engine.page_tokens
    held = min(cfg.engine.slots * each, cfg.engine.pool_tokens or math.inf)
    cache = 2 * shape.num_layers * held * shape.num_kv_heads * shape.head_dim * size / heads_ways
    update = update_bytes(cfg, shape, devices) + trained * (4 + stored) / ways  # their sum, and of one microbatch
    return {
        "parameters": whole * stored / ways,
        "optimizer": trained * (stored + (2 if cfg.optimizer.bf16_momentum else stored)) / ways,
        "reference": whole * stored / ways if cfg.loss.kl_coef and not cfg.model.lora.rank else 0.0,
        "weights for decoding": whole * size / heads_ways if is_copied else 0.0,
        **({FAST: fast.resident_bytes(cfg, shape, devices)} if cfg.method.fast.rank else {}),
        CACHE: cache,
        UPDATE: update,
    }


def peak(parts: Mapping[str, float]) -> float:
    """The most that is there at once: the cache is given back before the update."""
    return sum(parts.values()) - min(parts[CACHE], parts[UPDATE])


def update_bytes(cfg: Config, shape: Any, devices: int) -> float:
    """Bytes of activations on one device in the update of a microbatch: what the layers keep for the backward pass,
    what one layer needs while it is at work, three times the logits of a chunk, and the head's gradient and cast."""
    rows = max(1, cfg.train.microbatch_rows // max(1, devices // max(1, cfg.mesh.tensor * cfg.mesh.sequence)))
    seq = -(-longest_row(cfg) // cfg.mesh.sequence)  # of a row, on one device
    size = jnp.dtype(cfg.model.dtype).itemsize
    attended = (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    # Norms, rotation and softmax are in float32, the MLP is in the compute dtype.
    layer = rows * seq * ((7 * shape.hidden_size + 6.5 * attended) * 4 + 4 * shape.intermediate_size * size)
    if cfg.model.lora.rank:  # frozen kernels have no gradient: their inputs are not kept
        layer *= 0.75
    carried = rows * seq * shape.hidden_size * size
    # Of the matmuls, those whose results the backward pass reads.
    results = rows * seq * (attended + shape.num_kv_heads * shape.head_dim + 2 * shape.intermediate_size) * size
    kept = {"none": layer, "full": carried, "dots": carried + results}[cfg.model.remat]
    if cfg.model.remat == "dots":
        layer -= results  # there already, in the layer that is at work
    logits = rows * min(cfg.train.logprob_chunk, seq) * shape.vocab_size * 4
    is_cast = cfg.model.dtype != cfg.model.param_dtype
    head = shape.vocab_size * shape.hidden_size * (4 + is_cast * size) / _ways(cfg, devices)
    return shape.num_layers * kept + layer + 3 * logits + head


def device_bytes() -> float:
    """Memory of one device; on a CPU the machine's, shared by its devices."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / jax.local_device_count()


def _ways(cfg: Config, devices: int) -> int:
    """Over how many devices the parameters are split."""
    fixed = math.prod(n for n in (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.sequence, cfg.mesh.tensor) if n > 0)
    sizes = [n if n > 0 else max(1, devices // fixed) for n in (cfg.mesh.fsdp, cfg.mesh.tensor)]
    return math.prod(sizes)


def _count(params: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))
