"""What of a policy's rollouts is worth imitating (`finemem collect-traces`). Kept of a group are

1. the `keep` rollouts with the highest reward (the mean of r over the turns; ties: the first sample), but only those
   above the group's mean, by `config.advantage.min_std` at least: a group whose rollouts are all alike says nothing;
2. of these the turns that ended by themselves and whose operations, at least one, all applied (`valid="turn"`), or only
   rollouts of which that is true of every turn (`valid="rollout"`);
3. each turn once: what two kept samples wrote alike after the same beginning is one trace.

A group of which an answer is missing keeps nothing: its rewards cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finemem_jax.config import AdvantageConfig, Config
from finemem_jax.env.environment import Environment, seen_question, turn_prompt, view
from finemem_jax.env.turns import tabulate, totals
from finemem_jax.imitation.traces import Trace, record
from finemem_jax.types import WRITE, Rollout, Step


@dataclass(frozen=True, slots=True)
class Selection:
    """How much is collected, and what of it is kept; see the rule above."""

    episodes: int = 256  # training episodes; 0 = all
    samples: int = 8  # rollouts of each
    keep: int = 1  # at most so many of them
    valid: str = "turn"  # turn | rollout


def group_record(group: Sequence[Rollout], env: Environment, cfg: Config, selection: Selection) -> dict:
    """The record of a group: rewards of its samples (null where they cannot be compared), the samples kept, traces."""
    episode = group[0].episode
    rewards = _rewards(group, cfg, env)
    usable = [
        s for s, rollout in enumerate(group) if selection.valid == "turn" or all(map(_applied, rollout.of(WRITE)))
    ]
    kept = best(rewards, usable, selection.keep, cfg.advantage)
    seen, traces = set(), []
    for sample in kept:
        for trace, step in _turns(group[sample], env):
            key = repr((trace.chunk, trace.memory, trace.operations))
            if key not in seen:
                seen.add(key)
                remarks = {"episode": episode.id, "step": step, "sample": sample, "reward": float(rewards[sample])}
                traces.append(record(trace, **remarks))
    outcomes = [outcome.ok for rollout in group for step in rollout.steps for outcome in step.outcomes]
    return {
        "episode": episode.id,
        "source": episode.source,
        "scores": [answer.score for rollout in group for answer in rollout.answers],
        "rewards": [None if np.isnan(reward) else float(reward) for reward in rewards],
        "valid": sum(outcomes),
        "operations": len(outcomes),
        "turns": sum(len(group[sample].of(WRITE)) for sample in kept),
        "kept": kept,
        "traces": traces,
    }


def _rewards(group: Sequence[Rollout], cfg: Config, env: Environment) -> np.ndarray:
    """Mean reward of each sample over its turns, [samples]; all NaN where one of them is missing."""
    if any(len(rollout.of(WRITE)) < len(rollout.episode.chunks) for rollout in group):  # a server gave no reply
        return np.full(len(group), np.nan)
    turns = tabulate([group], cfg.rewards, env.count_tokens)
    (by_sample,) = turns.split(totals(turns, cfg.rewards.weights))
    rewards = np.array([values.mean() for values in by_sample]).round(6)  # as they stand in the file
    return np.full(len(group), np.nan) if np.isnan(rewards).any() else rewards


def best(rewards: np.ndarray, usable: Sequence[int], keep: int, cfg: AdvantageConfig) -> list[int]:
    """The samples with the highest rewards, at most `keep` of those usable, that lie above the mean of the group.

    rewards: [samples], NaN where they cannot be compared. Example: [.2, .9, .9, .4] and keep=1 give [1].
    """
    if np.isnan(rewards).any():
        return []
    bar = rewards.mean() + max(cfg.min_std, cfg.eps)
    above = [sample for sample in usable if rewards[sample] >= bar]
    return sorted(above, key=lambda sample: (-rewards[sample], sample))[:keep]


def _applied(step: Step) -> bool:
    """Whether the turn is fit to be imitated: it ended by itself, and all that it wrote, at least a SKIP, applied."""
    is_ended = step.completion.finish == "stop"
    return is_ended and bool(step.outcomes) and all(outcome.ok for outcome in step.outcomes)


def _turns(rollout: Rollout, env: Environment) -> list[tuple[Trace, int]]:
    """The rollout's turns that are fit to be imitated, with the chunks they are about."""
    found, memory = [], env.first_memory(rollout.episode)
    question = seen_question(env, [answer.question for answer in rollout.final_answers])
    for step in rollout.steps:
        if step.role == WRITE and step.chunk is not None and _applied(step):
            chunk = rollout.episode.chunks[step.chunk].text
            shown = view(memory, chunk, env.memory.view, env)
            _, visible = turn_prompt(env, chunk, shown, question, memory.notice())
            found.append((Trace(chunk, visible, step.operations, question), step.chunk))
        memory = step.memory_after
    return found
