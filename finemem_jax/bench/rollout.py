"""A training step's rollouts without the update: tokens per second, and where the time of a config's rollouts goes."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from finemem_jax.config import resolve
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.environment import training_questions
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.env.turns import asks_chunk_questions
from finemem_jax.loading import load_answerer, load_environment, load_fast, load_mesh, load_policy
from finemem_jax.rollouts.collect import Job, collect_rollouts, warm_up
from finemem_jax.schema.config_files import load_config
from finemem_jax.types import Sampling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="configs/quickstart.py", help="config file (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. train.episodes=4")
    parser.add_argument("--steps", type=int, default=3, help="rollouts of so many training steps, after a first one")
    parser.add_argument("--warm-up", action="store_true", help="compile every shape first, and report how many")
    parser.add_argument("--timed", action="store_true", help="wait after every prefill, to tell its time")


def run(args: argparse.Namespace) -> dict[str, Any]:
    cfg = load_config(args.config, [f"--config.{override}" for override in args.set])
    policy = load_policy(cfg, load_mesh(cfg))
    env = load_environment(cfg, policy.tokenizer)
    engine = Engine(policy.model, policy.params, cfg.engine, load_fast(cfg, policy))
    engine.is_timed = args.timed
    episodes = resolve("finemem_jax.benchmarks", cfg.data.name).load(cfg.data, "train", cfg.seed)
    sampling = Sampling(
        temperature=cfg.train.temperature,
        max_tokens=cfg.prompt.max_completion_tokens,
        stop_tokens=stop_tokens(env.tokenizer),
    )
    asks_chunks = asks_chunk_questions(cfg.rewards)

    def jobs(step: int) -> list[Job]:
        made = []
        for group in range(cfg.train.episodes):
            episode = episodes[(step * cfg.train.episodes + group) % len(episodes)]
            asked = training_questions(episode, cfg.rewards, asks_chunks=asks_chunks, seed=f"{cfg.seed} {step}")
            made += [Job(episode, asked, group, sample) for sample in range(cfg.train.group_size)]
        return made

    with tempfile.TemporaryDirectory() as folder:
        answerer = load_answerer(cfg, Path(folder))
        compiled = warm_up(engine) if args.warm_up else 0
        for step in range(args.steps + 1):
            if step == 1:  # the first one compiles
                engine.reset_stats()
                start = time.perf_counter()
            engine.set_params(policy.params)
            collect_rollouts(engine, env, answerer, jobs(step), sampling, seed=cfg.seed, step=step)
        seconds = time.perf_counter() - start
    stats = engine.reset_stats()
    return {
        "rollouts": args.steps * cfg.train.episodes * cfg.train.group_size,
        "completions": stats.completions,
        "new_tokens": stats.sampled_tokens,
        "seconds": seconds,
        "tokens_per_second": stats.sampled_tokens / seconds,
        "occupancy": stats.occupancy,
        "prefill_share": stats.prefill_seconds / seconds,  # 0 without --timed: then it is among decode's
        "decode_share": (stats.device_seconds - stats.prefill_seconds) / seconds,
        "host_share": stats.host_seconds / seconds,  # in the engine, the device had nothing to do
        "overlapped_share": stats.overlapped_seconds / seconds,  # the host worked behind the device
        "waiting_share": 1 - (stats.device_seconds + stats.host_seconds) / seconds,  # answers, after the last token
        "prompt_tokens": stats.prompt_tokens,
        "prefilled_tokens": stats.prefilled_tokens,
        "warmed_up_shapes": compiled,
        "shapes": len(stats.shapes),
        "device": jax.devices()[0].device_kind,
    }
