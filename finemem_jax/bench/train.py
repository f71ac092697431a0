"""Tokens per second and model FLOP utilisation of the update: reference log-probs, gradients, AdamW.

The defaults are the shapes of the side-by-side with other trainers: 32 sequences of 256 + 128 tokens, a Qwen3 of
width 256 with 6 layers. `--preset=0.6b --row-tokens=4096 --dtype=bfloat16 --remat=full` is the one for accelerators.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finemem_jax.config import LossConfig, OptimizerConfig, UserError, resolve, unknown
from finemem_jax.nn.layers import abstract_params
from finemem_jax.nn.sharding import init_params, make_mesh
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_train_step, state_shardings
from finemem_jax.rollouts.packing import TrainSequence, pack_rollouts, to_device


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", default="", help="of family qwen3; default: the shape given below")
    for name, value in {"vocab": 4096, "hidden": 256, "layers": 6, "heads": 8, "kv-heads": 4, "head-dim": 32}.items():
        command.add_argument(f"--{name}", type=int, default=value)
    command.add_argument("--mlp", type=int, default=1024)
    command.add_argument("--sequences", type=int, default=32)
    command.add_argument("--prompt", type=int, default=256, help="tokens of each")
    command.add_argument("--completion", type=int, default=128, help="tokens of each")
    command.add_argument("--row-tokens", type=int, default=0, help="tokens of a packed row; default: one sequence")
    command.add_argument("--microbatch-rows", type=int, default=2)
    command.add_argument("--chunk", type=int, default=64, help="tokens of each row whose logits exist at once")
    command.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    command.add_argument("--remat", default="none", choices=("none", "full", "dots"))
    command.add_argument("--no-reference", action="store_true", help="no KL term")
    for axis in ("data", "fsdp", "tensor"):
        command.add_argument(f"--{axis}", type=int, default=1, help=f"mesh axis {axis}, over the devices there are")
    command.add_argument("--repeats", type=int, default=3)


def run(args: argparse.Namespace) -> dict[str, Any]:
    model = _model(args)
    cfg = LossConfig(kl_coef=0.0 if args.no_reference else 0.04)
    axes = (args.data, args.fsdp, args.tensor)
    mesh = None if axes == (1, 1, 1) else make_mesh(*axes)
    params = init_params(model, jax.random.key(0), mesh)
    optimizer = make_optimizer(OptimizerConfig(lr=1e-6, warmup=0.0), updates=100)
    state = create_train_state(jax.tree.map(jnp.copy, params), optimizer)
    batch = to_device(_rows(args, model.cfg.vocab_size, cfg), mesh)
    fill = make_fill_logprobs(model, chunk=args.chunk, mesh=mesh)
    shardings = None if mesh is None else state_shardings(state)
    step = make_train_step(model, optimizer, cfg, chunk=args.chunk, shardings=shardings, mesh=mesh)

    def reference() -> Any:
        return batch if args.no_reference else batch.replace(ref_logprobs=fill(params, batch))

    def one_update() -> tuple[float, float]:
        nonlocal state
        start = time.perf_counter()
        filled = jax.block_until_ready(reference())
        middle = time.perf_counter()
        state, metrics = step(state, filled)
        jax.block_until_ready((state, metrics))
        return middle - start, time.perf_counter() - middle

    cpu = time.process_time()
    first = sum(one_update())
    first_cpu = time.process_time() - cpu
    times, cpu = [], time.process_time()
    for _ in range(args.repeats):
        times.append(one_update())
    cpu = (time.process_time() - cpu) / args.repeats
    seconds = statistics.median(sum(pair) for pair in times)
    tokens = args.sequences * (args.prompt + args.completion)
    flops = model_flops(model, args)
    rate = matmul_rate(jnp.dtype(args.dtype))
    return {
        "parameters": sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params)),
        "tokens": tokens,
        "microbatches": int(batch.tokens.shape[0]),
        "first_seconds": first,  # compilation included
        "compile_seconds": first - seconds,
        "compile_cpu_seconds": first_cpu - cpu,  # the same on a busy machine
        "seconds": seconds,
        "fastest_seconds": min(sum(pair) for pair in times),
        "reference_seconds": statistics.median(reference for reference, _ in times),
        "update_seconds": statistics.median(update for _, update in times),
        "cpu_seconds": cpu,
        "tokens_per_second": tokens / seconds,
        "model_flops": flops,
        "matmul_flops_per_second": rate,  # measured here, beside the run
        "model_flop_utilisation": flops / seconds / rate,
        "peak_memory_bytes": peak_memory(),
        "device": jax.devices()[0].device_kind,
    }


def model_flops(model: Any, args: argparse.Namespace) -> float:
    """Multiplications and additions that the maths asks for, times what backward adds; nothing recomputed counts.

    Forward is 1, forward and backward 3, the reference 1 more. Attention over half a sequence, the head on
    completions.
    """
    c = model.cfg
    head = c.vocab_size * c.hidden_size
    parameters = sum(int(np.prod(p.shape)) for p in jax.tree.leaves(abstract_params(model)))
    body = parameters - head * (1 if c.tie_word_embeddings else 2)
    length = args.prompt + args.completion
    attention = 4 * c.num_layers * c.num_heads * c.head_dim * length / 2
    sequence = length * (2 * body + attention) + args.completion * 2 * head
    return args.sequences * sequence * (3 if args.no_reference else 4)


def matmul_rate(dtype: jnp.dtype, size: int = 0) -> float:
    """FLOP per second of a large matrix product, the best of three."""
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    a = jnp.ones((size, size), dtype)
    multiply: Callable = jax.jit(lambda a: a @ a)
    jax.block_until_ready(multiply(a))
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(multiply(a))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _model(args: argparse.Namespace) -> Any:
    qwen3 = resolve("finemem_jax.models", "qwen3")
    if args.preset:
        if args.preset not in qwen3.PRESETS:
            raise UserError(unknown(args.preset, list(qwen3.PRESETS), "preset of qwen3"))
        shape = qwen3.PRESETS[args.preset]
    else:
        shape = qwen3.Config(
            vocab_size=args.vocab,
            hidden_size=args.hidden,
            num_layers=args.layers,
            num_heads=args.heads,
            num_kv_heads=args.kv_heads,
            head_dim=args.head_dim,
            intermediate_size=args.mlp,
        )
    return qwen3.Model(dataclasses.replace(shape, dtype=args.dtype, remat=args.remat))


def _rows(args: argparse.Namespace, vocab: int, cfg: LossConfig) -> Any:
    rng = np.random.default_rng(0)
    sequences = [
        TrainSequence(
            prompt=rng.integers(2, vocab, args.prompt).tolist(),
            completion=rng.integers(2, vocab, args.completion).tolist(),
            logprobs=[-float(np.log(vocab))] * args.completion,
        )
        for _ in range(args.sequences)
    ]
    row_tokens = args.row_tokens or args.prompt + args.completion
    advantages = rng.normal(size=args.sequences)
    return pack_rollouts(sequences, advantages, cfg, row_tokens=row_tokens, microbatch_rows=args.microbatch_rows)


def peak_memory() -> int:
    """Of the device where it counts them, of this process otherwise; imports included."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
