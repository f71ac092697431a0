"""What a policy answers of a text from its weights alone, before and after the text is written into them.

The pairs are the data's own: its questions about every chunk whose answer stands there (or, as
`config.method.fast.supervision` says, the text itself). The same questions are asked with nothing in the prompt, with
the text in the prompt, and with nothing but what was learned. So a write that fits and is not retrieved shows: its loss
falls, and the answers stay wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from finemem_jax.config import Config, UserError
from finemem_jax.decoding.engine import Engine
from finemem_jax.env import learning
from finemem_jax.env.answering import recall_turns
from finemem_jax.env.environment import Asked, Environment
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.loading import load_environment, load_fast, load_held_out, load_mesh, load_policy, load_training
from finemem_jax.rollouts.collect import Job, requests
from finemem_jax.schema.config_files import load_config
from finemem_jax.types import Episode, Learn, Retrieved, Sampling, Turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="configs/tmem_small.py", help="config file (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. method.fast.lr=0.01")
    parser.add_argument("--episodes", type=int, default=8, help="the first so many")
    parser.add_argument("--train", action="store_true", help="of the training episodes, not of the held-out ones")


def run(args: argparse.Namespace) -> dict[str, Any]:
    cfg = load_config(args.config, [f"--config.{override}" for override in args.set])
    policy = load_policy(cfg, load_mesh(cfg))
    env = load_environment(cfg, policy.tokenizer)
    engine = Engine(policy.model, policy.params, cfg.engine, load_fast(cfg, policy))
    available = load_training(cfg) if args.train else load_held_out(cfg)
    episodes = [available[i] for i in range(min(args.episodes, len(available)))]
    sampling = Sampling(temperature=0.0, max_tokens=cfg.method.answer_tokens, stop_tokens=stop_tokens(env.tokenizer))
    jobs = [Job(episode, Asked(((),) * len(episode.chunks), ())) for episode in episodes]
    played = engine.run([requests(_play(env, job.episode), job, sampling, (cfg.seed, 0)) for job in jobs])
    found = [record for finish in played for record in finish()]
    if not found:
        raise UserError("the chunks of config.data have no questions whose answers stand in them: nothing to write")
    return {"questions": len(found), **_means(found), **_fast(cfg), "device": jax.devices()[0].device_kind}


def _play(
    env: Environment, episode: Episode
) -> Generator[Turn | Learn, Any, Callable[[], list[dict[str, float | None]]]]:
    """Asks, writes every context, and asks again; what waits for the scores of every question."""
    contexts = list(learning.contexts(episode, env))
    asked = {question.text: question for context in contexts for question in learning.gold_questions(context)}
    questions = list(asked.values())
    texts = tuple(Retrieved(f"#{chunk.index + 1}", chunk.index, (), chunk.text) for chunk in episode.chunks)
    nothing = yield from recall_turns(env, episode, questions, 0, 0)
    told = yield from recall_turns(env, episode, questions, 0, 1, texts)
    fast, losses = 0, []
    for context in contexts:
        if lessons := learning.gold_lessons(env, context, episode.query_prompt):
            written = yield Learn(lessons, fast)
            fast = written.number
            losses.append((written.loss_before, written.loss_after))
    after = yield from recall_turns(env, episode, questions, fast, 2)

    def finish() -> list[dict[str, float | None]]:
        before_loss, after_loss = np.mean(losses, axis=0).tolist() if losses else (0.0, 0.0)
        return [
            {
                "from_nothing": before[1](),
                "from_text": seen[1](),
                "from_weights": then[1](),
                "loss_before": before_loss,
                "loss_after": after_loss,
            }
            for before, seen, then in zip(nothing, told, after, strict=True)
        ]

    return finish


def _means(found: list[dict[str, float | None]]) -> dict[str, float]:
    return {name: float(np.mean([r[name] for r in found if r[name] is not None] or [0.0])) for name in found[0]}


def _fast(cfg: Config) -> dict[str, Any]:
    fast = cfg.method.fast
    return {name: getattr(fast, name) for name in ("supervision", "forms", "basis", "rank", "layers", "lr", "epochs")}
