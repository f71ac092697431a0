"""Seconds of a whole GRPO step: rollouts by the engine, log-probs of the reference, gradients, AdamW.

    finemem bench step --model=FOLDER --prompts=8 --group=4 --prompt=192 --new=64

Prompts are random tokens and completions have one length, as in the side-by-side with other trainers; nothing else of a
step (environment, answerer, rewards) is in it. `bench rollout` measures that with a config.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finemem_jax.bench.train import peak_memory
from finemem_jax.config import EngineConfig, LossConfig, OptimizerConfig, UserError, resolve
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.credit import group_advantages
from finemem_jax.nn.sharding import init_params
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_fill_logprobs, make_train_step
from finemem_jax.rollouts import packing
from finemem_jax.types import Completion, Sampling
from finemem_jax.weights import hf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="", help="Hugging Face folder; default: a random Qwen3 of width 256")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=4, help="samples per prompt")
    parser.add_argument("--prompt", type=int, default=192, help="tokens of each")
    parser.add_argument("--new", type=int, default=64, help="tokens per completion")
    parser.add_argument("--slots", type=int, default=32, help="rows decoded at once")
    parser.add_argument("--microbatch-rows", type=int, default=2)
    parser.add_argument("--row-tokens", type=int, default=0, help="tokens of a packed row; default: the least padding")
    parser.add_argument("--share-prefixes", action="store_true", help="what a group's prompts share is computed once")
    parser.add_argument("--no-reference", action="store_true", help="no KL term")
    parser.add_argument("--reps", type=int, default=3, help="steps measured, after two that compile")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if min(args.prompts, args.group, args.prompt - 1, args.new, args.reps) < 1:
        raise UserError("--prompts, --group, --new and --reps must be at least 1, --prompt at least 2")
    model, params = _load(args.model)
    loss = LossConfig(kl_coef=0.0 if args.no_reference else 0.04)
    optimizer = make_optimizer(OptimizerConfig(lr=1e-6, warmup=0.0), updates=100)
    reference = jax.tree.map(jnp.copy, params)
    state = create_train_state(params, optimizer)
    fill, update = make_fill_logprobs(model, chunk=64), make_train_step(model, optimizer, loss, chunk=64)
    longest = args.prompt + args.new
    engine = Engine(model, state.params, EngineConfig(slots=args.slots, cache_tokens=longest))
    rng = np.random.default_rng(0)
    parts, computed = [], 0
    for rep in range(args.reps + 2):
        prompts = rng.integers(2, model.cfg.vocab_size, (args.prompts, args.prompt)).repeat(args.group, axis=0)
        keys = np.stack([np.full(len(prompts), rep), np.arange(len(prompts))], axis=1).astype(np.uint32)
        times = [time.perf_counter()]
        engine.set_params(state.params)
        made = engine.generate(prompts.tolist(), Sampling(max_tokens=args.new), keys)
        engine.release()
        times.append(time.perf_counter())
        advantages = group_advantages(rng.random((args.prompts, args.group, 1))).ravel()
        packed = _pack(prompts.tolist(), made, advantages, args, loss)
        computed = packed.tokens.shape[1] * packed.tokens.shape[2] * -(-packed.used_rows // packed.tokens.shape[1])
        batch: Any = packing.to_device(packed)
        if loss.kl_coef:
            batch = jax.block_until_ready(batch.replace(ref_logprobs=fill(reference, batch)))
        times.append(time.perf_counter())
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter())
        parts.append(np.diff(times))
    measured = np.array(parts[2:])
    return {
        "parameters": sum(int(np.prod(p.shape)) for p in jax.tree.leaves(reference)),
        "sequences": args.prompts * args.group,
        "tokens": args.prompts * args.group * longest,
        "computed_tokens": computed,  # by the update, padding included
        "seconds": statistics.median(measured.sum(1).tolist()),
        "fastest_seconds": float(measured.sum(1).min()),
        "rollout_seconds": statistics.median(measured[:, 0].tolist()),
        "reference_seconds": statistics.median(measured[:, 1].tolist()),
        "update_seconds": statistics.median(measured[:, 2].tolist()),
        "first_seconds": float(parts[0].sum()),  # compilation included
        "peak_memory_bytes": peak_memory(),
        "device": jax.devices()[0].device_kind,
    }


def _load(folder: str) -> tuple[Any, Any]:
    if folder:
        return hf.load_pretrained(folder, dtype="float32")
    qwen3 = resolve("finemem_jax.models", "qwen3")
    shape = qwen3.Config(
        vocab_size=4096,
        hidden_size=256,
        num_layers=6,
        num_heads=8,
        num_kv_heads=4,
        head_dim=32,
        intermediate_size=1024,
    )
    model = qwen3.Model(dataclasses.replace(shape, dtype="float32"))
    return model, init_params(model, jax.random.key(0))


def _pack(
    prompts: list[list[int]], made: list[Completion], advantages: np.ndarray, args: argparse.Namespace, loss: LossConfig
) -> packing.PackedRows:
    """The rows of the step; the samples of a prompt are a family that shares all of it but the last token."""
    shared = args.prompt - 1 if args.share_prefixes and args.group > 1 else 0
    sequences = [
        packing.TrainSequence(prompt, done.tokens, done.logprobs, i // args.group if shared else -1, shared)
        for i, (prompt, done) in enumerate(zip(prompts, made, strict=True))
    ]
    lengths = [packing.Lengths(len(s.prompt), len(s.completion), s.family, s.shared) for s in sequences]
    layout = packing.lay_out(
        [lengths], args.prompt + args.new, row_tokens=args.row_tokens, microbatch_rows=args.microbatch_rows
    )
    rows = [[(sequences[index], float(advantages[index])) for index in row.members] for row in layout.rows[0]]
    return packing.pack_layout(rows, layout, loss, args.microbatch_rows)
