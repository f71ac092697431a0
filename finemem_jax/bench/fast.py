"""Tokens per second of rows that each carry fast weights of their own, against rows without; seconds of a write.

The shapes and the load are those of `finemem bench decode`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from finemem_jax.bench import decode
from finemem_jax.config import EngineConfig, FastConfig
from finemem_jax.decoding.engine import Engine
from finemem_jax.decoding.request import Episode, Request, Update
from finemem_jax.nn.fast_weights import FastSetup, make_basis, memory_bytes
from finemem_jax.nn.sharding import init_params
from finemem_jax.types import Lesson


def add_arguments(parser: argparse.ArgumentParser) -> None:
    decode.add_arguments(parser)
    parser.add_argument("--rank", type=int, default=6)
    parser.add_argument("--fast-layers", type=int, default=4)
    parser.add_argument("--texts", type=int, default=32, help="texts that a write learns")
    parser.add_argument("--text-tokens", type=int, default=64)
    parser.add_argument("--write-rows", type=int, default=16, help="writes per device call")


def run(args: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(args.seed)
    model = decode.make_model(args)
    prompts, samplings = decode.make_load(args, rng, model.cfg.vocab_size)
    longest = max(len(p) + s.max_tokens for p, s in zip(prompts, samplings, strict=True))
    cfg = EngineConfig(slots=args.slots, cache_tokens=args.cache_tokens or longest, page_tokens=args.page_tokens)
    fast = FastConfig(
        rank=args.rank,
        layers=args.fast_layers,
        max_texts=args.texts,
        text_tokens=args.text_tokens,
        rows=args.write_rows,
    )
    params = init_params(model, jax.random.key(args.seed))
    plain = Engine(model, params, cfg)
    carrying = Engine(model, params, cfg, FastSetup(fast, make_basis(params, fast, args.seed)))

    def write() -> Episode:
        tokens = rng.integers(2, model.cfg.vocab_size, (args.texts, args.text_tokens)).tolist()
        return (yield Update(tuple(Lesson(tuple(text), args.text_tokens // 2) for text in tokens)))

    def ask(number: int, rep: int, under: int) -> Episode:
        return (yield Request(prompts[number], samplings[number], (rep, number), fast=under))

    def seconds_of(engine: Engine, episodes: Sequence[Episode]) -> tuple[float, list[Any]]:
        engine.release()  # nothing is in the cache
        start = time.perf_counter()
        found = engine.run(episodes)
        return time.perf_counter() - start, found

    def per_second(engine: Engine, under: Sequence[int]) -> float:
        rates = []
        for rep in range(args.reps + 1):
            taken, found = seconds_of(engine, [ask(i, rep, number) for i, number in enumerate(under)])
            rates.append(sum(len(completion.tokens) for completion in found) / taken)
        return statistics.median(rates[1:])  # the first one compiles

    def write_seconds(count: int) -> tuple[float, list[int]]:
        seconds_of(carrying, [write() for _ in range(count)])
        taken, done = seconds_of(carrying, [write() for _ in range(count)])
        return taken, [written.number for written in done]

    one, _ = write_seconds(1)
    many, _ = write_seconds(args.write_rows)
    _, numbers = write_seconds(len(prompts))
    without, own = per_second(plain, [0] * len(prompts)), per_second(carrying, numbers)
    return {
        "tokens_per_second_without": without,
        "tokens_per_second_with": own,
        "ratio": own / without,
        "write_seconds": one,
        f"write_seconds_of_{args.write_rows}": many,
        "bytes_per_row": memory_bytes(model.cfg, fast),
        "device": jax.devices()[0].device_kind,
    }
