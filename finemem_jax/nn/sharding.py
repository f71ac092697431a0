"""Where arrays live: the mesh, the rules from logical axes to mesh axes, and parameters born in their place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from finemem_jax.config import UserError
from finemem_jax.nn.layers import abstract_params, logical_axes

AXES = ("data", "fsdp", "sequence", "tensor")

MeshAxis = str | tuple[str, ...] | None


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None, *, sequence: int = 1
) -> Mesh:
    """A mesh with the axes `AXES` over `devices` (default: all). One size may be -1: all the rest."""
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(data, fsdp, tensor, sequence, len(devices))
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def mesh_sizes(data: int, fsdp: int, tensor: int, sequence: int, devices: int) -> dict[str, int]:
    """Size of each axis of a mesh of so many devices, in the order of `AXES`. Raises UserError when they do not make
    one."""
    sizes = {"data": data, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}
    asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
    rest = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(rest) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise UserError(f"mesh {asked}: sizes are positive, and at most one is -1 (all the rest)")
    if devices % fixed or (not rest and fixed != devices):
        raise UserError(
            f"mesh {asked} needs {'a multiple of ' if rest else ''}{fixed} devices, there are {devices}: "
            "set one of config.mesh.data, .fsdp, .tensor to -1 or make the product of all four match"
        )
    if rest:
        sizes[rest[0]] = devices // fixed
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingRules:
    """Mesh axis (or axes, or None = replicated) of each logical axis."""

    vocab: MeshAxis = "tensor"
    embed: MeshAxis = "fsdp"
    heads: MeshAxis = "tensor"
    kv_heads: MeshAxis = "tensor"
    mlp: MeshAxis = "tensor"
    layers: MeshAxis = None
    norm: MeshAxis = None
    lora: MeshAxis = None
    adapters: MeshAxis = None

    def spec(self, axes: tuple[str | None, ...]) -> PartitionSpec:
        """The PartitionSpec of an array with these logical axes; None is an axis that is never split."""
        placed = [None if axis is None else getattr(self, axis) for axis in axes]
        used = [name for axis in placed if axis for name in (axis if isinstance(axis, tuple) else (axis,))]
        if len(set(used)) != len(used):
            raise UserError(f"sharding rules put logical axes {axes} on mesh axes {placed}: one is used twice")
        return PartitionSpec(*placed)


DECODE_RULES = ShardingRules(embed=None)
"""For decoding on one host: whole in every replica but for the tensor axis, so that no step gathers weights."""


def param_shardings(model: nn.Module, mesh: Mesh | AbstractMesh, rules: ShardingRules | None = None) -> dict:
    """The parameter tree with a `NamedSharding` at each leaf. Raises UserError where a shape does not divide.

    Two kinds of uneven shape are handled: kv heads that are fewer than the tensor axis (every device keeps all, and
    attention picks), and a vocabulary that does not divide (every device keeps it whole).
    """
    rules = _rules_for(model.cfg, mesh, rules or ShardingRules())

    def place(path: tuple, leaf: jax.ShapeDtypeStruct, axes: tuple[str, ...]) -> NamedSharding:
        spec = rules.spec(axes)
        for size, axis, placed in zip(leaf.shape, axes, spec, strict=True):
            ways = _ways(mesh, placed)
            if size % ways:
                name = "/".join(key.key for key in path)
                raise UserError(
                    f"{name} {leaf.shape}: axis {axis} of size {size} does not split {ways} ways over mesh axis "
                    f"{placed}; use a mesh size that divides it or ShardingRules({axis}=None)"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, abstract_params(model), logical_axes(model))


def init_params(model: nn.Module, key: jax.Array, mesh: Mesh | None = None, rules: ShardingRules | None = None) -> dict:
    """Random parameters; each device makes its own shard when a mesh is given. The same values on any mesh."""
    token = jax.numpy.zeros((1, 1), jax.numpy.int32)
    out = None if mesh is None else param_shardings(model, mesh, rules)
    return jax.jit(lambda k: model.init(k, token, token, token)["params"], out_shardings=out)(key)


def _ways(mesh: Mesh | AbstractMesh, axis: MeshAxis) -> int:
    names = axis if isinstance(axis, tuple) else (axis,) if axis else ()
    return math.prod(mesh.shape[name] for name in names)


def _rules_for(cfg, mesh: Mesh | AbstractMesh, rules: ShardingRules) -> ShardingRules:
    # The projections store heads * head_dim in one axis, which could split evenly through the middle of a head.
    ways = _ways(mesh, rules.heads)
    if cfg.num_heads % ways:
        raise UserError(
            f"{cfg.num_heads} attention heads do not split {ways} ways over mesh axis {rules.heads}: make "
            f"config.mesh.tensor a divisor of {cfg.num_heads}"
        )
    if cfg.num_kv_heads % _ways(mesh, rules.kv_heads):
        rules = dataclasses.replace(rules, kv_heads=None)
    if cfg.vocab_size % _ways(mesh, rules.vocab):
        rules = dataclasses.replace(rules, vocab=None)
    return rules
