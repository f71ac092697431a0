"""Tokens per second of the engine on given shapes: even, grouped, ragged or heavy-tailed lengths; random weights."""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from typing import Any

import jax
import numpy as np

from finemem_jax.config import EngineConfig, UserError, resolve, unknown
from finemem_jax.decoding.engine import Engine
from finemem_jax.decoding.request import EngineStats
from finemem_jax.nn.sharding import init_params
from finemem_jax.types import Completion, Sampling

TAIL = math.log(10) / 1.645  # a log-normal whose 95th percentile is ten times its median


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", default="qwen3")
    parser.add_argument("--preset", default="", help="a preset of the family; default: the shape below")
    for name, value in (
        ("vocab", 4096), ("hidden", 256), ("layers", 6), ("heads", 8), ("kv-heads", 4), ("head-dim", 32), ("ffn", 1024),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="float32", help="compute dtype: float32 | bfloat16")
    parser.add_argument("--weights", default="compute", help="compute | int8")
    parser.add_argument("--slots", type=int, default=32, help="rows decoded at once")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens per completion, at most")
    parser.add_argument("--group", type=int, default=1, help="samples per prompt")
    parser.add_argument("--ragged", action="store_true", help="prompts of an eighth of --prompt up to all of it")
    parser.add_argument("--eos-frac", type=float, default=0.0, help="share of the vocabulary that ends a completion")
    parser.add_argument("--median", type=int, default=0, help="log-normal lengths: median; 95th percentile 10 times it")
    parser.add_argument("--lock-step", action="store_true", help="batches of --slots, each until its longest is done")
    parser.add_argument("--cache-tokens", type=int, default=0, help="longest prompt plus completion; 0 = as needed")
    parser.add_argument("--page-tokens", type=int, default=64)
    parser.add_argument("--prefill-tokens", type=int, default=EngineConfig().prefill_tokens)
    parser.add_argument("--timed", action="store_true", help="wait after every prefill, to tell its time")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(args.seed)
    model = make_model(args)
    prompts, samplings = make_load(args, rng, model.cfg.vocab_size)
    longest = max(len(p) + s.max_tokens for p, s in zip(prompts, samplings, strict=True))
    cfg = EngineConfig(
        slots=args.slots,
        cache_tokens=args.cache_tokens or longest,
        page_tokens=args.page_tokens,
        prefill_tokens=args.prefill_tokens,
        weights=args.weights,
    )
    params = init_params(model, jax.random.key(args.seed))
    engine = Engine(model, params, cfg)
    engine.is_timed = args.timed

    def sample(rep: int) -> tuple[float, list[Completion], EngineStats]:
        engine.set_params(params)  # as between two training steps: nothing is left in the cache
        keys = np.stack([np.full(len(prompts), rep), np.arange(len(prompts))], axis=1).astype(np.uint32)
        size = args.slots if args.lock_step else len(prompts)
        start, found = time.perf_counter(), []
        for i in range(0, len(prompts), size):
            found += engine.generate(prompts[i : i + size], samplings[i : i + size], keys[i : i + size])
        return time.perf_counter() - start, found, engine.reset_stats()

    first, _, _ = sample(0)
    sample(0)  # with stops at random the first call may have missed a shape
    runs = [sample(rep) for rep in range(1, args.reps + 1)]
    return {"first_call_seconds": first, **_report(runs), "device": jax.devices()[0].device_kind}


def make_model(args: argparse.Namespace) -> Any:
    module = resolve("finemem_jax.models", args.family)
    preset = args.preset or "tiny"
    if preset not in module.PRESETS:
        raise UserError(unknown(preset, list(module.PRESETS), f"preset of {args.family}"))
    shape = module.PRESETS[preset]
    if not args.preset:
        shape = dataclasses.replace(
            shape,
            vocab_size=args.vocab,
            hidden_size=args.hidden,
            num_layers=args.layers,
            num_heads=args.heads,
            num_kv_heads=args.kv_heads,
            head_dim=args.head_dim,
            intermediate_size=args.ffn,
        )
    return module.Model(dataclasses.replace(shape, dtype=args.dtype, param_dtype=args.dtype))


def make_load(
    args: argparse.Namespace, rng: np.random.Generator, vocab: int
) -> tuple[list[tuple[int, ...]], list[Sampling]]:
    count = -(-args.requests // args.group)
    lengths = rng.integers(max(1, args.prompt // 8), args.prompt + 1, count) if args.ragged else [args.prompt] * count
    prompts = [tuple(rng.integers(2, vocab, length).tolist()) for length in lengths]
    prompts = [prompts[i // args.group] for i in range(args.requests)]
    limits = [args.new] * args.requests
    if args.median:
        drawn = np.exp(math.log(args.median) + TAIL * rng.standard_normal(args.requests))
        limits = np.clip(drawn, 1, args.new).astype(int).tolist()
    elif args.eos_frac:  # as if each token ended it with that chance
        limits = np.minimum(rng.geometric(args.eos_frac, args.requests), args.new).tolist()
    return prompts, [Sampling(max_tokens=limit) for limit in limits]


def _report(runs: list[tuple[float, list[Completion], EngineStats]]) -> dict[str, Any]:
    """Medians over the runs; shares of the wall time of the median run."""
    seconds = statistics.median(taken for taken, _, _ in runs)
    taken, found, stats = min(runs, key=lambda r: abs(r[0] - seconds))
    decode = stats.device_seconds - stats.prefill_seconds
    return {
        "completions": len(found),
        "new_tokens": sum(len(completion.tokens) for completion in found),
        "seconds": taken,
        "tokens_per_second": sum(len(completion.tokens) for completion in found) / taken,
        "best_tokens_per_second": max(sum(len(c.tokens) for c in found) / taken for taken, found, _ in runs),
        "occupancy": stats.occupancy,
        "prefill_share": stats.prefill_seconds / taken,  # 0 without --timed: then it is among decode's
        "decode_share": decode / taken,
        "host_share": stats.host_seconds / taken,  # the device had nothing to do
        "overlapped_share": stats.overlapped_seconds / taken,  # the host worked behind the device
        "host_seconds_per_completion": (taken - stats.device_seconds) / max(len(found), 1),
        "prompt_tokens": stats.prompt_tokens,
        "prefilled_tokens": stats.prefilled_tokens,
        "decode_steps": stats.decode_steps,
        "prefill_calls": stats.prefill_calls,
        "decode_calls": stats.decode_calls,
        "preemptions": stats.preemptions,
        "shapes": len(stats.shapes),
    }
