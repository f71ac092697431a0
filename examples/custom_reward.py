"""A reward term of your own: this file is one. Copied into the package's folder of rewards, it is used by its name:

    cp examples/custom_reward.py finemem_jax/rewards/brevity.py
    finemem train --config=configs/quickstart.py --config.rewards.weights.brevity=0.2

    python examples/custom_reward.py       what two writers earn by it

The folder is the registry: there is nothing else to edit. `finemem report` then shows the term beside the others.
"""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import WRITE, CountTokens, Rollout

ROLES, LEVEL = (WRITE,), "turn"  # a number for every turn in which the policy writes


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """1 - tokens written / tokens read, [writing turns], at least 0: how briefly each step put what it kept."""
    shares = []
    for step in rollout.of(WRITE):
        chunk = rollout.episode.chunks[step.chunk]
        written = sum(count_tokens(str(operation.arguments.get("content", ""))) for operation in step.operations)
        shares.append(max(0.0, 1.0 - written / max(count_tokens(chunk.text), 1)))
    return np.array(shares, dtype=np.float64)


def main() -> None:
    from finemem_jax import config
    from finemem_jax.env import tokenizer
    from finemem_jax.env.environment import Environment, all_questions, replay
    from finemem_jax.types import Operation

    cfg = config.Config()
    words = tokenizer.load("embedded:warm_start")
    count_tokens = tokenizer.token_counter(words)
    env = Environment(words, count_tokens, cfg.memory, cfg.prompt, cfg.retrieval)
    episode = config.resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0)[0]
    answerer = config.resolve("finemem_jax.answerers", "extractive").create(cfg.answerer)

    def first_line(episode, turn):
        return [Operation("memory_insert", {"content": episode.chunks[turn.chunk].text.splitlines()[0]})]

    def everything(episode, turn):
        lines = episode.chunks[turn.chunk].text.splitlines()
        return [Operation("memory_insert", {"content": line}) for line in lines]

    for write in (first_line, everything):
        rollout = replay(env, episode, all_questions(episode), answerer.submit, write)()
        earned = turn_rewards(rollout, cfg.rewards, count_tokens)
        score = np.mean([answer.score for answer in rollout.answers])
        print(f"{write.__name__}: brevity {np.round(earned, 2).tolist()}, {score:.2f} of the questions right")


if __name__ == "__main__":
    main()
