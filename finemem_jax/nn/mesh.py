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
SEQUENCE = "sequence"  # mesh axis that the tokens of a row are split over
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


def sequence_ways() -> int:
    """Devices that share the tokens of one row."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape[SEQUENCE]


def split_rows(x: Array) -> Array:
    """`x` [rows, seq, …] with its rows and their tokens split over the mesh, and nothing else. The compiler guesses
    worse."""
    return _placed(x, PartitionSpec(ROWS, SEQUENCE if sequence_ways() > 1 else None))


def piece_rows(x: Array) -> Array:
    """`x` [rows, seq, …] as [pieces * rows, seq / pieces, …]: what each device holds of a row becomes a row of its own.

    Without a sequence axis there is one piece, and nothing changes. Nothing is sent between devices."""
    ways = sequence_ways()
    if ways == 1:
        return x
    rows, seq = x.shape[:2]
    pieces = x.reshape(rows, ways, seq // ways, *x.shape[2:]).swapaxes(0, 1)
    return _placed(pieces.reshape(ways * rows, seq // ways, *x.shape[2:]), PartitionSpec((SEQUENCE, *ROWS)))


def whole_rows(x: Array) -> Array:
    """What `piece_rows` made its result from."""
    ways = sequence_ways()
    if ways == 1:
        return x
    rows, seq = x.shape[0] // ways, x.shape[1]
    pieces = x.reshape(ways, rows, seq, *x.shape[2:]).swapaxes(0, 1)
    return _placed(pieces.reshape(rows, ways * seq, *x.shape[2:]), PartitionSpec(ROWS, SEQUENCE))


def _placed(x: Array, spec: PartitionSpec) -> Array:
    mesh = current_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
