"""The real steps of a run, compiled ahead of time for a TPU topology by libtpu: no TPU is needed.

Shapes and places are those that `train.py` would give them; nothing is allocated.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from finemem_jax.config import Config, UserError, plugins, resolve
from finemem_jax.decoding.placement import abstract_decode, abstract_write, decode_mesh
from finemem_jax.nn.layers import abstract_params
from finemem_jax.nn.lora import without_adapters
from finemem_jax.nn.mesh import ROWS, SEQUENCE
from finemem_jax.nn.sharding import make_mesh, param_shardings
from finemem_jax.plan.collectives import Collectives, collectives
from finemem_jax.plan.fast import memory_arrays, planned_fast
from finemem_jax.plan.formula import GIB
from finemem_jax.rl.batch import RolloutBatch
from finemem_jax.rl.train_state import TrainState, abstract_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_train_step
from finemem_jax.rollouts.packing import longest_row
from finemem_jax.weights.hf import read_config

FLAT = ("v5e", "v6e")  # generations whose slices are a grid and not a cube


@dataclass(frozen=True, slots=True)
class Chip:
    """Published figures of one device as JAX counts them (a tpu7x chip is two)."""

    name: str
    memory: float  # bytes of HBM
    flops: float  # bfloat16 per second
    bandwidth: float  # of HBM, bytes per second
    kinds: tuple[str, ...]  # JAX's names of it


# cloud.google.com/tpu/docs, the page of each generation; tpu7x halved, because a chip is two devices.
CHIPS = {
    "v4": Chip("v4", 32 * GIB, 275e12, 1.228e12, ("TPU v4",)),
    "v5e": Chip("v5e", 16 * GIB, 197e12, 0.819e12, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip("v5p", 95 * GIB, 459e12, 2.765e12, ("TPU v5", "TPU v5p")),
    "v6e": Chip("v6e", 32 * GIB, 918e12, 1.640e12, ("TPU v6 lite", "TPU v6e")),
    "tpu7x": Chip("tpu7x", 96 * GIB, 1153.5e12, 3.69e12, ("TPU7x", "TPU v7x", "TPU v7")),
}


@dataclass(frozen=True, slots=True)
class Program:
    """One compiled program, per chip."""

    name: str
    seconds: float  # it took to compile
    arguments: int  # bytes that lie there before: parameters, optimizer, cache, batch
    temporary: int  # bytes it needs besides: activations, gradients, gathered weights
    collectives: Collectives
    has_pallas: bool
    text: str


# --------------------------------------------------------------------------------------------------------------
# The machine and the model
# --------------------------------------------------------------------------------------------------------------


def topology_devices(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The chip and the devices of a topology like "v5e:4x4". Needs libtpu and no TPU."""
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not shape:
        raise UserError(f"--topology={topology!r}: NAME:SHAPE with NAME one of {', '.join(CHIPS)}, e.g. v5e:4x4")
    # Otherwise libtpu asks the metadata server of a machine that this is not.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{name}-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is opened: others may compile at the same time
    from jax.experimental import topologies

    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError("finemem plan --topology compiles with libtpu: pip install 'finemem_jax[plan]'") from None
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(f"--topology={topology!r}: {str(error).splitlines()[0]}") from error
    return CHIPS[name], list(description.devices)


def planned_model(cfg: Config) -> Any:
    """The model of the config; from a folder's config.json or, by its published name, from a family's presets."""
    shape = None
    folder = Path(cfg.model.path)
    if not cfg.model.path:
        shape = resolve("finemem_jax.models", cfg.model.family).PRESETS.get(cfg.model.preset)
    elif (folder / "config.json").is_file():
        shape = read_config(folder)[1]
    else:
        wanted = cfg.model.path.lower().rpartition("/")[2]
        for family in plugins("finemem_jax.models"):
            for preset, known in resolve("finemem_jax.models", family).PRESETS.items():
                if wanted == f"{family}-{preset}":
                    shape = known
    if shape is None:
        raise UserError(
            f"config.model.path={cfg.model.path!r}: neither a folder with a config.json nor the published name of a "
            "preset; set config.model.path='' and config.model.family and config.model.preset"
        )
    shape = dataclasses.replace(
        shape, dtype=cfg.model.dtype, param_dtype=cfg.model.param_dtype, remat=cfg.model.remat, lora=cfg.model.lora
    )
    return resolve("finemem_jax.models", shape.family).Model(shape)


# --------------------------------------------------------------------------------------------------------------
# The three programs: how each is lowered, and the shapes and places of what goes into it
# --------------------------------------------------------------------------------------------------------------


def row_tokens(cfg: Config) -> int:
    """Tokens of a packed row, the longest that training would choose."""
    return -(-longest_row(cfg) // cfg.mesh.sequence) * cfg.mesh.sequence


def train_program(cfg: Config, model: Any, mesh: Mesh, hosts: int) -> tuple[Callable, tuple]:
    optimizer = make_optimizer(cfg.optimizer, updates=max(cfg.train.steps, 1))
    state = state_shapes(cfg, model, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(
        model,
        optimizer,
        cfg.loss,
        temperature=cfg.train.temperature,
        chunk=cfg.train.logprob_chunk,
        shardings=shardings,
        mesh=mesh,
        fast=planned_fast(cfg, model),
    )
    return step.lower, (state, batch_shapes(cfg, model, mesh, hosts, has_reference=bool(cfg.loss.kl_coef)))


def logprobs_program(cfg: Config, model: Any, mesh: Mesh, hosts: int) -> tuple[Callable, tuple]:
    fill = make_fill_logprobs(
        model,
        temperature=cfg.train.temperature,
        chunk=cfg.train.logprob_chunk,
        mesh=mesh,
        fast=planned_fast(cfg, model),
    )
    params = without_adapters(_on_mesh(abstract_params(model), param_shardings(model, mesh)))
    return fill.lower, (params, batch_shapes(cfg, model, mesh, hosts, has_reference=False))


def decode_program(cfg: Config, model: Any, mesh: Mesh, hosts: int) -> tuple[Callable, tuple]:
    """Decoding is local to a host, whose chips share the heads. Every slot is full: the most it can take."""
    return abstract_decode(model, cfg.engine, _host_mesh(cfg, model, mesh, hosts), planned_fast(cfg, model))


def write_program(cfg: Config, model: Any, mesh: Mesh, hosts: int) -> tuple[Callable, tuple]:
    """A write into fast weights, of as many episodes as one call takes and as full as it may be: local to a host."""
    setup = planned_fast(cfg, model)
    assert setup is not None
    return abstract_write(model, _host_mesh(cfg, model, mesh, hosts), setup)


def _host_mesh(cfg: Config, model: Any, mesh: Mesh, hosts: int) -> Mesh:
    devices = list(mesh.devices.flat) if hosts == 1 else topology_devices(one_host(mesh.devices.flat[0]))[1]
    return decode_mesh(model.cfg, devices, cfg.engine.tensor) or make_mesh(devices=devices[:1])


def one_host(device: jax.Device) -> str:
    """The topology of one host of the slice that `device` belongs to; hosts of more than one have four chips."""
    name = next(name for name, chip in CHIPS.items() if device.device_kind in chip.kinds)
    return f"{name}:2x2" if name in FLAT else f"{name}:2x2x1"


def batch_shapes(cfg: Config, model: Any, mesh: Mesh, hosts: int, *, has_reference: bool) -> RolloutBatch:
    """One mini-batch's shapes. Two microbatches: their number is a loop's, and costs neither memory nor code."""
    rows, ways = cfg.train.microbatch_rows * hosts, mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        raise UserError(
            f"config.train.microbatch_rows={cfg.train.microbatch_rows} on each of {hosts} host(s) are {rows} rows, "
            f"which do not split over mesh axes data * fsdp = {ways}: make it a multiple of {-(-ways // hosts)}"
        )
    sharding = NamedSharding(mesh, PartitionSpec(None, ROWS, SEQUENCE))

    def field(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((2, rows, row_tokens(cfg)), dtype, sharding=sharding)

    whole, real = field(jnp.int32), field(jnp.float32)
    return RolloutBatch(
        tokens=whole,
        positions=whole,
        segment_ids=whole,
        old_logprobs=real,
        ref_logprobs=real if has_reference else None,
        token_weights=real,
        advantages=real,
        adapter=whole if cfg.model.lora.roles else None,
        fast=memory_arrays(cfg, model, 2, rows, sharding=NamedSharding(mesh, PartitionSpec(None, ROWS))),
    )


def compiled(lowered: dict[str, jax.stages.Lowered]) -> Iterator[tuple[str, Program | jax.errors.JaxRuntimeError]]:
    """Compiles all at once and yields them in order; in the place of one that finds no room, the compiler's error."""

    def compile_one(name: str) -> Program | jax.errors.JaxRuntimeError:
        try:
            return _compiled(name, lowered[name])
        except jax.errors.JaxRuntimeError as error:
            if "hbm" not in str(error).lower():
                raise
            return error

    cached = jax.config.jax_enable_compilation_cache
    try:
        # A program out of a cache comes without the compiler's report.
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        with ThreadPoolExecutor() as pool:
            yield from zip(lowered, pool.map(compile_one, lowered), strict=True)
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
        compilation_cache.reset_cache()


def _compiled(name: str, lowered: jax.stages.Lowered) -> Program:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        program = lowered.compile(compiler_options={"xla_dump_to": folder})
        laid_out = _laid_out(Path(folder))
    memory, text = program.memory_analysis(), program.as_text()
    return Program(
        name=name,
        seconds=time.perf_counter() - start,
        arguments=memory.argument_size_in_bytes,
        temporary=laid_out - memory.argument_size_in_bytes,
        collectives=collectives(text),
        has_pallas="tpu_custom_call" in text,
        text=text,
    )


def _laid_out(folder: Path) -> int:
    """Bytes of HBM that the compiler gave a program: arguments, results and temporaries, each place once.

    From the compiler's own report. `memory_analysis()` counts some temporaries twice that share a place: of a program
    that fits 16 GiB and compiles for them it said 16.1.
    """
    (report,) = folder.glob("*memory-usage-report.txt")
    total = re.search(r"\(color=0\)\s+Total bytes: (\d+)", report.read_text())
    assert total is not None, f"{report.name} names no total"
    return int(total[1])


def state_shapes(cfg: Config, model: Any, mesh: Mesh) -> TrainState:
    """Shapes and places of the parameters and the optimizer's moments."""
    params = _on_mesh(abstract_params(model), param_shardings(model, mesh))
    return abstract_train_state(params, make_optimizer(cfg.optimizer, updates=1))


def _on_mesh(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
