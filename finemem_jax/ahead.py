"""The real steps of a run, compiled ahead of time for a TPU topology by libtpu: no TPU is needed.

Shapes and places are those that `train.py` would give them; nothing is allocated.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from finemem_jax.config import Config, UserError, plugins, resolve
from finemem_jax.decoding import generate
from finemem_jax.hlo import Collectives, collectives
from finemem_jax.nn.layers import abstract_params
from finemem_jax.nn.lora import without_adapters
from finemem_jax.nn.mesh import HEADS, ROWS
from finemem_jax.nn.paged_cache import PagePool
from finemem_jax.nn.sharding import DECODE_RULES, make_mesh, param_shardings
from finemem_jax.rl.batch import RolloutBatch
from finemem_jax.rl.train_state import TrainState, abstract_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_train_step
from finemem_jax.weights.hf import read_config

GIB = 2**30
STOP_TOKENS = 4  # per request, as the engine pads them
KEY_WORDS = 5  # seed, step, episode, sample, t
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
# The three programs, and the shapes and places of what goes into them
# --------------------------------------------------------------------------------------------------------------


def row_tokens(cfg: Config) -> int:
    """Tokens of a packed row, the longest that training would choose."""
    return cfg.train.row_tokens or cfg.prompt.max_prompt_tokens + cfg.prompt.max_completion_tokens


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
    )
    return step, (state, batch_shapes(cfg, mesh, hosts, has_reference=bool(cfg.loss.kl_coef)))


def logprobs_program(cfg: Config, model: Any, mesh: Mesh, hosts: int) -> tuple[Callable, tuple]:
    fill = make_fill_logprobs(model, temperature=cfg.train.temperature, chunk=cfg.train.logprob_chunk, mesh=mesh)
    params = without_adapters(_on_mesh(abstract_params(model), param_shardings(model, mesh)))
    return fill, (params, batch_shapes(cfg, mesh, hosts, has_reference=False))


def decode_program(cfg: Config, model: Any, mesh: Mesh, hosts: int) -> tuple[Callable, tuple]:
    """Decoding is local to a host, whose chips share the heads. Every slot is full: the most it can take."""
    devices = list(mesh.devices.flat) if hosts == 1 else topology_devices(one_host(mesh.devices.flat[0]))[1]
    ways = int(np.gcd(len(devices), model.cfg.num_kv_heads))
    here = make_mesh(data=-1, tensor=ways, devices=devices)
    everywhere = NamedSharding(here, PartitionSpec())
    by_head = NamedSharding(here, PartitionSpec(None, HEADS))
    in_dtype = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(cfg.model.dtype)), abstract_params(model))
    params = _on_mesh(in_dtype, param_shardings(model, here, DECODE_RULES))
    each = -(-cfg.engine.cache_tokens // cfg.engine.page_tokens)
    listed = cfg.engine.slots * each
    held = min(listed, cfg.engine.pool_tokens // cfg.engine.page_tokens) if cfg.engine.pool_tokens else listed
    pool = jax.eval_shape(lambda: PagePool.create(model.cfg, held + 1, cfg.engine.page_tokens))
    pool = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_head), pool)

    def of(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    slots, whole = cfg.engine.slots, jnp.int32
    rows = generate.DecodeRows(
        token=of(whole, slots),
        length=of(whole, slots),
        count=of(whole, slots),
        is_active=of(jnp.bool_, slots),
        key_words=of(jnp.uint32, slots, KEY_WORDS),
        temperature=of(jnp.float32, slots),
        top_k=of(whole, slots),
        top_p=of(jnp.float32, slots),
        max_tokens=of(whole, slots),
        min_tokens=of(whole, slots),
        stop_tokens=of(whole, slots, STOP_TOKENS),
        pages=of(whole, listed),
        page_rows=of(whole, listed),
        page_starts=of(whole, listed),
        first_page=of(whole, slots),
    )
    decode = partial(generate.decode, model, steps=cfg.engine.decode_chunk, truncate=False)
    return jax.jit(decode, donate_argnums=1), (params, pool, rows, of(whole))


def one_host(device: jax.Device) -> str:
    """The topology of one host of the slice that `device` belongs to; hosts of more than one have four chips."""
    name = next(name for name, chip in CHIPS.items() if device.device_kind in chip.kinds)
    return f"{name}:2x2" if name in FLAT else f"{name}:2x2x1"


def batch_shapes(cfg: Config, mesh: Mesh, hosts: int, *, has_reference: bool) -> RolloutBatch:
    """One mini-batch's shapes. Two microbatches: their number is a loop's, and costs neither memory nor code."""
    rows, ways = cfg.train.microbatch_rows * hosts, mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        raise UserError(
            f"config.train.microbatch_rows={cfg.train.microbatch_rows} on each of {hosts} host(s) are {rows} rows, "
            f"which do not split over mesh axes data * fsdp = {ways}: make it a multiple of {-(-ways // hosts)}"
        )
    sharding = NamedSharding(mesh, PartitionSpec(None, ROWS, None))

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
    )


def compiled(name: str, function: Callable, arguments: tuple) -> Program:
    """Compiles; raises JaxRuntimeError when the compiler finds no room."""
    start = time.perf_counter()
    program = function.lower(*arguments).compile()
    memory, text = program.memory_analysis(), program.as_text()
    return Program(
        name=name,
        seconds=time.perf_counter() - start,
        arguments=memory.argument_size_in_bytes,
        # What is returned in the place of a donated argument is counted once.
        temporary=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        collectives=collectives(text),
        has_pallas="tpu_custom_call" in text,
        text=text,
    )


def state_shapes(cfg: Config, model: Any, mesh: Mesh) -> TrainState:
    """Shapes and places of the parameters and the optimizer's moments."""
    params = _on_mesh(abstract_params(model), param_shardings(model, mesh))
    return abstract_train_state(params, make_optimizer(cfg.optimizer, updates=1))


def _on_mesh(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
