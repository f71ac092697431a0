"""Fast weights: a low-rank update of the last layers' MLP that each row has of its own (TMEM, arXiv 2606.04536).

A projection of such a layer gives x @ kernel + scale * x @ A @ B. A is made once from the kernels a run starts with, is
shared by all rows and never changes; B is the memory: zero at the start of an episode, written by gradient steps inside
it (rl/fast_write.py), dropped at its end. Both are inputs of the model, not parameters, so optimizer, checkpoints,
reference and export do not see them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from finemem_jax.config import FastConfig, UserError
from finemem_jax.nn.mesh import HEADS

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")  # of the MLP; those that carry fast weights

Basis = dict[str, np.ndarray]
"""A of every projection, `[layers, in, rank]` float32."""

Memory = dict[str, Any]
"""B of every projection: `[layers, rank, out]` float32 of one episode, or with a leading axis of several."""


@dataclass(frozen=True, slots=True, eq=False)
class FastSetup:
    """What a run with fast weights has of them beside the memories themselves."""

    cfg: FastConfig
    basis: Basis


@flax.struct.dataclass
class FastWeights:
    """What the rows of one call carry. With fewer B than rows, consecutive rows share one, each as many."""

    a: Any  # projection -> [layers, in, rank]
    b: Any  # projection -> [owners, layers, rank, out] float32; rows are a multiple of the owners
    scale: float = flax.struct.field(pytree_node=False, default=1.0)

    @property
    def layers(self) -> int:
        """How many layers, the model's last, have them."""
        return self.a[PROJECTIONS[0]].shape[0]

    def term(self, name: str, x: Float[Array, "rows seq in"], layer: Int[Array, ""]) -> Float[Array, "rows seq out"]:
        """What is added to the projection `name` of x; zero, and not computed, where `layer` (counted from the first
        that has fast weights) is below 0."""
        owners, _, rank, out = self.b[name].shape

        def inside() -> Array:
            index = jnp.maximum(layer, 0)
            a = jax.lax.dynamic_index_in_dim(jnp.asarray(self.a[name]), index, 0, keepdims=False).astype(x.dtype)
            b = jax.lax.dynamic_index_in_dim(self.b[name], index, 1, keepdims=False).astype(x.dtype)
            low = (x @ a).reshape(owners, -1, rank)
            return (low @ b * self.scale).reshape(*x.shape[:-1], out)

        return jax.lax.cond(layer >= 0, inside, lambda: jnp.zeros((*x.shape[:-1], out), x.dtype))


def make_basis(params: Any, cfg: FastConfig, seed: int = 0) -> Basis:
    """A of the last `cfg.layers` layers of a model's parameters, which may lie over several processes: all of those
    must call this at the same point.

    svd: the directions of the input that the kernel answers most to, each as long as its singular value: a change of B
    then moves what the model uses already. random: directions drawn at random, as long together as those.
    """
    basis = {}
    for number, name in enumerate(PROJECTIONS):
        kernels = _last_kernels(params["layers"]["mlp"][name]["kernel"], cfg.layers)
        if cfg.rank > min(kernels.shape[1:]):
            raise UserError(
                f"config.method.fast.rank={cfg.rank}: {name} of {kernels.shape[1]} by {kernels.shape[2]} has no more "
                f"than {min(kernels.shape[1:])} directions"
            )
        found = np.stack([principal_inputs(kernel, cfg.rank) for kernel in kernels])
        if cfg.basis == "random":
            drawn = np.random.default_rng((seed, number)).standard_normal(found.shape)
            found = drawn * _length(found) / _length(drawn)
        basis[name] = found.astype(np.float32)
    return basis


def principal_inputs(kernel: np.ndarray, rank: int) -> np.ndarray:
    """[in, rank] float64: the first singular vectors of the input side of a kernel `[in, out]`, each times its singular
    value. The largest entry of each is positive, which makes them unique where the singular values differ."""
    kernel = np.asarray(kernel, np.float64)
    # From the smaller of the two Gram matrices: a whole decomposition of a wide kernel takes many times as long.
    if kernel.shape[0] <= kernel.shape[1]:
        values, vectors = np.linalg.eigh(kernel @ kernel.T)
        found = vectors[:, ::-1][:, :rank] * np.sqrt(np.maximum(values[::-1][:rank], 0.0))
    else:
        found = kernel @ np.linalg.eigh(kernel.T @ kernel)[1][:, ::-1][:, :rank]
    largest = np.take_along_axis(found, np.abs(found).argmax(0)[None], 0)
    return found * np.where(largest < 0, -1.0, 1.0)


def _last_kernels(kernels: jax.Array | np.ndarray, layers: int) -> np.ndarray:
    """[layers, in, out] float32, of the last layers."""
    if layers > kernels.shape[0]:
        raise UserError(f"config.method.fast.layers={layers}: the model has {kernels.shape[0]}")
    if isinstance(kernels, jax.Array) and not kernels.is_fully_addressable:
        whole = NamedSharding(kernels.sharding.mesh, PartitionSpec())
        kernels = jax.jit(lambda x: x[-layers:], out_shardings=whole)(kernels).addressable_data(0)
    return np.asarray(kernels[-layers:]).astype(np.float32)


def _length(x: np.ndarray) -> np.ndarray:
    """Of each layer's A, [layers, 1, 1]."""
    return np.sqrt((np.asarray(x, np.float64) ** 2).sum((1, 2), keepdims=True))


def empty_memory(model: nn.Module, cfg: FastConfig, *owners: int) -> Memory:
    """B of zeros, as numpy, with the leading axes `owners`."""
    return {name: np.zeros((*owners, *shape), np.float32) for name, shape in memory_shapes(model.cfg, cfg).items()}


def memory_shapes(shape: Any, cfg: FastConfig) -> dict[str, tuple[int, int, int]]:
    """[layers, rank, out] of B of every projection. shape: a TransformerConfig."""
    sizes = (shape.intermediate_size, shape.intermediate_size, shape.hidden_size)
    return {name: (cfg.layers, cfg.rank, out) for name, out in zip(PROJECTIONS, sizes, strict=True)}


def memory_bytes(shape: Any, cfg: FastConfig) -> int:
    """Bytes of one episode's B. shape: a TransformerConfig."""
    return sum(4 * int(np.prod(sizes)) for sizes in memory_shapes(shape, cfg).values())


def merged(model: nn.Module, params: Any, fast: FastWeights, owner: int) -> Any:
    """The parameters with the fast weights of one owner added into the kernels, summed in float32."""
    mlp = dict(params["layers"]["mlp"])
    for name in PROJECTIONS:
        kernel = mlp[name]["kernel"]
        update = jnp.asarray(fast.a[name], jnp.float32) @ jnp.asarray(fast.b[name][owner], jnp.float32) * fast.scale
        last = (kernel[-fast.layers :].astype(jnp.float32) + update).astype(kernel.dtype)
        mlp[name] = {**mlp[name], "kernel": jnp.concatenate([kernel[: -fast.layers], last])}
    return {**params, "layers": {**params["layers"], "mlp": mlp}}


def decode_shardings(mesh: Mesh | AbstractMesh) -> tuple[dict, dict]:
    """(A, B) on a mesh that splits the MLP's width over its tensor axis, as decoding's does."""
    wide_out = NamedSharding(mesh, PartitionSpec(None, None, None, HEADS))
    wide_in = NamedSharding(mesh, PartitionSpec(None, HEADS))
    whole = NamedSharding(mesh, PartitionSpec())
    return (
        {"gate_proj": whole, "up_proj": whole, "down_proj": wide_in},
        {"gate_proj": wide_out, "up_proj": wide_out, "down_proj": whole},
    )
