"""What a run needs of a machine nobody has booked yet: `finemem plan --config=F --topology=v5p:2x2x1`.

The real train step, log-prob step and decode step are compiled for the named TPU topology by libtpu's ahead-of-time
compiler, on any machine and without a TPU. Memory is what the compiler lays out; step times are estimates from the
chip's published figures. `--gpu-memory=80` plans GPUs by formula instead, without compiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from finemem_jax import exits
from finemem_jax.config import Config
from finemem_jax.console import tell
from finemem_jax.nn.layers import abstract_params
from finemem_jax.nn.lora import without_adapters
from finemem_jax.nn.sharding import make_mesh, mesh_sizes
from finemem_jax.plan.answers import asked_line
from finemem_jax.plan.collectives import gathered_shapes
from finemem_jax.plan.fast import WRITES, fast_line, write_flops
from finemem_jax.plan.formula import CACHE, GIB, UPDATE, memory_parts
from finemem_jax.plan.programs import (
    Chip,
    Program,
    compiled,
    decode_program,
    logprobs_program,
    planned_model,
    row_tokens,
    state_shapes,
    topology_devices,
    train_program,
    write_program,
)

CHUNKS = 10  # steps of an episode, in Memalpha on average


def plan(cfg: Config, topology: str = "", *, gpu_memory: float = 0.0, gpus: int = 8) -> int:
    """Prints the plan; returns 0 when it fits and exits.DOES_NOT_FIT when not."""
    model = planned_model(cfg)
    if gpu_memory:
        code = plan_by_formula(cfg, model, gpu_memory * GIB, gpus)  # raises where the mesh is another's, before a word
        tell(asked_line(cfg, CHUNKS))
        _tell_fast(cfg, model, 1)
        return code
    chip, devices = topology_devices(topology)
    hosts = len({device.process_index for device in devices})
    mesh = make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices, sequence=cfg.mesh.sequence)
    size = f"{len(devices)} devices, {hosts} host(s), {chip.memory / GIB:.0f} GiB each"
    tell(f"{topology}: {size}; mesh {dict(mesh.shape)}")
    tell(asked_line(cfg, CHUNKS))
    _tell_fast(cfg, model, hosts)
    builds = {"train": train_program, "logprobs": logprobs_program, "decode": decode_program}
    builds |= {"write": write_program} if cfg.method.fast.rank else {}
    calls = {name: build(cfg, model, mesh, hosts) for name, build in builds.items()}
    lowered = {name: lower(*arguments) for name, (lower, arguments) in calls.items()}
    programs, failures = [], []
    for name, program in compiled(lowered):
        if isinstance(program, Program):
            programs.append(program)
            tell(describe(program, model), flush=True)
        else:
            failures.append(f"{name}: {_first_line_about_memory(str(program))}")
            tell(f"  {failures[-1]}", flush=True)
    cache = shard_bytes(calls["decode"][1][1])  # the pool of pages
    return verdict(cfg, model, chip, mesh, programs, failures, cache)


# --------------------------------------------------------------------------------------------------------------
# What is said about them
# --------------------------------------------------------------------------------------------------------------


def _tell_fast(cfg: Config, model: Any, hosts: int) -> None:
    if line := fast_line(cfg, model, hosts, WRITES):
        tell(line)


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes per chip of what lies there between the steps."""

    params: float
    optimizer: float
    reference: float

    @property
    def total(self) -> float:
        return self.params + self.optimizer + self.reference


def resident_bytes(cfg: Config, model: Any, mesh: Mesh) -> Resident:
    state = state_shapes(cfg, model, mesh)
    keeps_reference = cfg.loss.kl_coef and not cfg.model.lora.rank
    return Resident(
        params=shard_bytes(state.params),
        optimizer=shard_bytes(state.opt_state),
        reference=shard_bytes(state.params) if keeps_reference else 0.0,
    )


def shard_bytes(tree: Any) -> float:
    """Bytes on one device of arrays with shardings."""
    return float(sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)))


def flops_per_token(cfg: Config, model: Any) -> tuple[float, float]:
    """(forward, forward and backward) per token of a row, with the recomputation that remat asks for.

    Two per parameter and token, and attention over half a row. The embedding is a lookup, and the head is counted
    on every position although only completions are projected: an upper bound.
    """
    c = model.cfg
    shapes = jax.tree.leaves(without_adapters(abstract_params(model)))
    parameters = sum(np.prod(x.shape) for x in shapes) - (0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size)
    attention = 4 * c.num_layers * c.num_heads * c.head_dim * row_tokens(cfg) / 2
    forward = 2 * parameters + attention
    return forward, forward * (4 if c.remat == "full" else 3)


def gathers_logits(text: str, vocab: int, embed: int) -> bool:
    """Whether a program's text all-gathers something with the vocabulary's axis that is not the head's weights."""
    return any(vocab in shape and not set(shape) <= {vocab, embed, 1} for shape in gathered_shapes(text))


def describe(program: Program, model: Any) -> str:
    notes = "; Pallas kernels" if program.has_pallas else "; no Pallas kernel"
    if program.name != "decode":  # which gathers one token's of each slot, to sample from
        gathers = gathers_logits(program.text, model.cfg.vocab_size, model.cfg.hidden_size)
        notes += "; all-gathers logits" if gathers else "; no all-gather of logits"
    lines = [
        f"  {program.name}: compiled in {program.seconds:.0f} s; per chip {program.arguments / GIB:.2f} GiB given, "
        f"{program.temporary / GIB:.2f} GiB activations and temporaries{notes}"
    ]
    for kind, (count, size) in sorted(program.collectives.items()):
        per = {"decode": "token of all slots", "write": "call"}.get(program.name, "microbatch")
        lines.append(f"    {kind}: {count:.0f} a {per}, {size / GIB:.3f} GiB per chip")
    return "\n".join(lines)


def verdict(
    cfg: Config,
    model: Any,
    chip: Chip,
    mesh: Mesh,
    programs: list[Program],
    failures: list[str],
    cache: float,
) -> int:
    held = resident_bytes(cfg, model, mesh)
    tell(
        f"  held between steps, per chip: parameters {held.params / GIB:.2f}, optimizer {held.optimizer / GIB:.2f}, "
        f"reference {held.reference / GIB:.2f} GiB; KV cache while decoding {cache / GIB:.2f} GiB"
    )
    needs = {}
    for program in programs:
        # The arguments of the update are the state itself; those of decoding are copies beside it.
        beside = {"train": held.reference, "logprobs": held.params + held.optimizer, "decode": held.total}
        beside |= {"write": held.total + cache}
        needs[program.name] = program.arguments + program.temporary + beside[program.name]
        free = chip.memory - needs[program.name]
        tell(f"  {program.name}: {needs[program.name] / GIB:.2f} GiB of {chip.memory / GIB:.0f}, {free / GIB:.2f} free")
        if free < 0:
            failures.append(f"{program.name} needs {needs[program.name] / GIB:.1f} GiB of {chip.memory / GIB:.0f}")
    _print_roofline(cfg, model, chip, mesh, programs)
    return _conclude(cfg, failures)


def knobs(cfg: Config, failures: list[str]) -> list[str]:
    """Config changes that lower what was too much, the ones that cost least first."""
    failed, found = " ".join(failures), []
    if "train" in failed or "logprobs" in failed:
        if cfg.model.remat != "full":
            found.append("config.model.remat=full")
        if cfg.train.microbatch_rows > 1:
            found.append(f"config.train.microbatch_rows={cfg.train.microbatch_rows // 2}")
        if cfg.train.logprob_chunk > 128:
            found.append(f"config.train.logprob_chunk={cfg.train.logprob_chunk // 4}")
        if cfg.loss.kl_coef and not cfg.model.lora.rank:
            found.append("config.loss.kl_coef=0 (no reference)")
        if not cfg.optimizer.bf16_momentum:
            found.append("config.optimizer.bf16_momentum=True")
        found.append("config.mesh.fsdp=-1 on more chips")
        if not cfg.model.lora.rank:
            found.append("config.model.lora.rank=32")
    if "write" in failed:
        found.append(f"config.method.fast.rows={max(cfg.method.fast.rows // 4, 1)}")
    if "decode" in failed:
        found.append(f"config.engine.slots={max(cfg.engine.slots // 2, 1)}")
        found.append("config.engine.cache_tokens nearer to prompt.max_prompt_tokens + prompt.max_completion_tokens")
    return found


def _print_roofline(cfg: Config, model: Any, chip: Chip, mesh: Mesh, programs: list[Program]) -> None:
    forward, both = flops_per_token(cfg, model)
    rows = {p.name: p for p in programs}
    tokens = cfg.train.microbatch_rows * row_tokens(cfg)  # of one host's share of a microbatch
    hosts = len({device.process_index for device in mesh.devices.flat})
    chips = mesh.devices.size / hosts
    sequences = cfg.train.episodes * cfg.train.group_size * CHUNKS
    per_step = {}
    for name, per_token in (("train", both), ("logprobs", forward)):
        if name in rows:
            flops = per_token * tokens / chips
            seconds = flops / chip.flops
            updates = cfg.train.epochs if name == "train" else 1
            per_step[name] = updates * seconds * sequences * row_tokens(cfg) / (tokens * hosts)
            tell(
                f"  {name}, estimate by roofline: {flops / 1e12:.1f} TFLOP per chip and microbatch of "
                f"{tokens} tokens a host, at least {seconds:.2f} s, {tokens / seconds:.0f} tokens/s a host"
            )
    if "decode" in rows:
        seconds = rows["decode"].arguments / chip.bandwidth
        turns = sequences * cfg.prompt.max_completion_tokens / (cfg.engine.slots * hosts)
        per_step["decode"] = turns * seconds
        tell(
            f"  decode, estimate by roofline: a token of all {cfg.engine.slots} slots reads all weights and a full "
            f"cache, at least {seconds * 1e3:.1f} ms, {cfg.engine.slots / seconds:.0f} tokens/s a host"
        )
    if "write" in rows:
        per_write = write_flops(cfg, model) / chips
        seconds = cfg.method.fast.rows * per_write / chip.flops
        per_step["write"] = cfg.train.episodes * cfg.train.group_size * WRITES * per_write / chip.flops / hosts
        tell(
            f"  write, estimate by roofline: {cfg.method.fast.rows} full writes in {seconds:.2f} s at least, "
            f"{WRITES} a rollout"
        )
    flops = (both * cfg.train.epochs + forward * bool(cfg.loss.kl_coef)) * sequences * row_tokens(cfg)
    tell(
        f"  a step, estimate by roofline: {flops / 1e15:.0f} PFLOP for {sequences} sequences ({cfg.train.episodes} "
        f"episodes x {cfg.train.group_size} samples x {CHUNKS} chunks), all of full length: "
        + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in per_step.items())
    )
    tell("  (estimates: the chip's published peaks, no overlap lost; a real run is slower)")


def plan_by_formula(cfg: Config, model: Any, memory: float, gpus: int) -> int:
    """GPUs of one node, by the estimate that `finemem train` makes before it loads weights."""
    mesh_sizes(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, cfg.mesh.sequence, gpus)
    parts = memory_parts(cfg, model.cfg, gpus, gpus)
    beside = {"train": parts[UPDATE], "decode": parts[CACHE]}
    held = sum(parts.values()) - sum(beside.values())
    tell(f"{gpus} GPUs of {memory / GIB:.0f} GiB, by formula, per GPU in GiB (nothing was compiled):")
    tell("  " + ", ".join(f"{name} {value / GIB:.2f}" for name, value in parts.items()))
    failures = []
    for name, extra in beside.items():
        tell(f"  {name}: in all {(held + extra) / GIB:.2f}")
        if held + extra > memory:
            failures.append(f"{name} needs {(held + extra) / GIB:.1f} GiB of {memory / GIB:.0f}")
    return _conclude(cfg, failures)


def _conclude(cfg: Config, failures: list[str]) -> int:
    if failures:
        tell("does not fit: " + "; ".join(failures))
        tell("what would make it fit: " + "; ".join(knobs(cfg, failures)))
        return exits.DOES_NOT_FIT
    tell("fits")
    return exits.DONE


def _first_line_about_memory(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if "hbm" in line.lower()]
    return lines[0] if lines else message.splitlines()[0]
