"""Which mesh the code being traced will run on.

The owner of a jitted function says it once (`with on_mesh(mesh)` inside the function), and layers deep below choose
a kernel for its platform and split their work over its axes. No mesh: one device of the default platform.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

ROWS = ("data", "fsdp")  # mesh axes that rows are split over
HEADS = "tensor"  # mesh axis that attention heads, mlp and vocabulary are split over

_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


@contextlib.contextmanager
def on_mesh(mesh: Mesh | None) -> Iterator[None]:
    """What is traced in the block runs on `mesh`."""
    reset = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(reset)


def current_mesh() -> Mesh | None:
    return _mesh.get()


def current_platform() -> str:
    """Platform that the code being traced will run on: cpu, gpu or tpu."""
    mesh = current_mesh()
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def split_rows(x: Array) -> Array:
    """`x` [rows, …] with its rows split over the mesh, and nothing else. The compiler guesses worse."""
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(ROWS)))
