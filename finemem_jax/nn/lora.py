"""Low-rank adapters as a part of the parameter tree.

A projection's adapter is its `lora` entry, `{"a": [layers, in, rank], "b": [layers, rank, out]}`; with an adapter for
each role (`cfg.lora.roles`) there is one axis more, `[layers, adapters, in, rank]`. The policy is the
whole tree, the reference policy `without_adapters(params)`: the same arrays, no second copy. Training takes the
gradient with respect to the adapters of `split_adapters` and puts them back with `join_adapters`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from finemem_jax.config import LoraConfig, UserError
from finemem_jax.nn.sharding import ShardingRules, param_shardings

ADAPTER = "lora"


def init_adapters(
    model: nn.Module, params: dict, key: jax.Array, mesh: Mesh | None = None, rules: ShardingRules | None = None
) -> dict:
    """`params` with fresh adapters as `model.cfg.lora` asks, placed as the rules say when a mesh is given.

    The base arrays are shared, not copied.
    """
    if model.cfg.lora.rank < 1:
        raise UserError(f"lora rank {model.cfg.lora.rank}: adapters need model.lora.rank >= 1")
    token = jnp.zeros((1, 1), jnp.int32)
    out = None if mesh is None else split_adapters(param_shardings(model, mesh, rules))[1]
    # Jitted, so that the base weights made on the way are dead code and are never allocated.
    make = jax.jit(lambda k: split_adapters(model.init(k, token, token, token)["params"])[1], out_shardings=out)
    adapters = make(key)
    adapted = join_adapters(without_adapters(params), adapters)
    check_targets(model.cfg.lora, adapted)
    return adapted


def check_targets(cfg: LoraConfig, params: dict) -> None:
    """Raises UserError when a target of `cfg` is no projection of the model of `params`: nothing would train it."""
    paths = flatten_dict(params)
    adapted = {path[path.index(ADAPTER) - 1] for path in paths if ADAPTER in path}
    for name in cfg.targets if cfg.rank else ():
        if name not in adapted:
            known = sorted({path[-2] for path in paths if path[-1] == "kernel" and "layers" in path})
            raise UserError(
                f"config.model.lora.targets: the model has no projection {name!r}; it has {', '.join(known)}"
            )


def split_adapters(params: dict) -> tuple[dict, dict]:
    """(base, adapters): two nested dicts whose leaves are those of `params`."""
    flat = flatten_dict(params)
    base = {path: leaf for path, leaf in flat.items() if ADAPTER not in path}
    adapters = {path: leaf for path, leaf in flat.items() if ADAPTER in path}
    return unflatten_dict(base), unflatten_dict(adapters)


def join_adapters(base: dict, adapters: dict) -> dict:
    """The whole tree again; adapters already in `base` are replaced."""
    return unflatten_dict({**flatten_dict(base), **flatten_dict(adapters)})


def without_adapters(params: dict) -> dict:
    """The base model's parameters: the reference policy, or what a model without LoRA takes."""
    return split_adapters(params)[0]


def has_adapters(params: dict) -> bool:
    """Whether any projection carries an adapter."""
    return any(ADAPTER in path for path in flatten_dict(params))


def per_row_adapters(adapters: dict, rows: int) -> dict:
    """The shared adapters once per row: leaves `[layers, in, rank]` become `[layers, rows, in, rank]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], rows, *x.shape[1:])), adapters)


def of_role(model: nn.Module, params: dict, number: int) -> dict:
    """The parameters with the adapter of one role alone, as those of a model whose only one it is."""
    if not model.cfg.lora.roles:
        raise UserError("there is one adapter for all roles: none is a role's own")
    base, adapters = split_adapters(params)
    return join_adapters(base, jax.tree.map(lambda x: x[:, number], adapters))


def merge_adapters(model: nn.Module, params: dict) -> dict:
    """The base parameters with the shared adapters added in: kernel + a @ b * alpha / rank, summed in float32."""
    flat = flatten_dict(without_adapters(params))
    for path, a in flatten_dict(split_adapters(params)[1]).items():
        if path[-1] != "a":
            continue
        projection = path[:-2]
        b = flatten_dict(params)[(*projection, ADAPTER, "b")]
        flat[(*projection, "kernel")] = merged_kernel(model, flat[(*projection, "kernel")], a, b)
    return unflatten_dict(flat)


def merged_kernel(model: nn.Module, kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """One projection's kernel `[..., in, out]` with its shared adapter added in, in the kernel's dtype."""
    if a.ndim != kernel.ndim:
        raise UserError(
            "adapters are one per row or per role: only one that all rows share can be merged into the weights"
        )
    update = a.astype(jnp.float32) @ b.astype(jnp.float32) * (model.cfg.lora.alpha / a.shape[-1])
    return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)
