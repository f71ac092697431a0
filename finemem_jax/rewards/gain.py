"""Memory gain: how much more the answerer knows from the memory after a step than from the one before.

    g(t) = mean_q F(M_t, q) - F(M_{t-1}, q),    F(M_{-1}, q) = 0

F is the score of the frozen answerer, M_{-1} holds nothing and so scores 0 by definition. Chunk reward pays a step for
what was in memory before it; the gain does not. Over the final questions it is potential-based shaping of the final
score (MGPO, arXiv 2609.37930): its sum over the steps is the final score, so it has the same expected gradient as the
final score itself, and every step has its own part of it.

`rewards.settings.gain.over`: chunk = the questions about the step's chunk, one asking more for each; final = the final
questions, asked after every step, T times as many as without; both = the sum of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.env.probing import ALONG, BEFORE, CHUNK
from finemem_jax.schema.own_settings import settings_of
from finemem_jax.types import WRITE, CountTokens, Rollout

ROLES, LEVEL = (WRITE,), "turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    over: Literal["chunk", "final", "both"] = "both"  # which questions the gain is over


def asks(cfg: RewardsConfig) -> set[str]:
    over = settings_of(cfg.settings, "rewards", "gain").over
    return {"chunk": {CHUNK, BEFORE}, "final": {ALONG}, "both": {CHUNK, BEFORE, ALONG}}[over]


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[writing turns], each in [-1, 1], in [-2, 2] over both; NaN (missing, not 0) where no question that it is made of
    was answered both times."""
    over = settings_of(cfg.settings, "rewards", "gain").over
    found = np.zeros(len(rollout.of(WRITE)))
    if over != "final":
        found += chunk_gain(rollout)
    if over != "chunk":
        found += final_gain(rollout)
    return found


def chunk_gain(rollout: Rollout) -> np.ndarray:
    """[writing turns], over the questions about the turn's chunk."""
    turns = rollout.of(WRITE)
    known = {(probe.after, probe.chunk, probe.number): probe.score for probe in rollout.probes}
    found = np.zeros(len(turns))
    for place, turn in enumerate(turns):
        now = [answer.score for answer in rollout.answers if answer.chunk == turn.chunk]
        before = [
            known.get((turns[place - 1].index, turn.chunk, number)) if place else 0.0 for number in range(len(now))
        ]
        found[place] = _mean_gain(before, now)
    return found


def final_gain(rollout: Rollout) -> np.ndarray:
    """[writing turns], over the final questions. Σ_t = the final score."""
    turns = rollout.of(WRITE)
    known = {(probe.after, probe.number): probe.score for probe in rollout.probes if probe.chunk is None}
    last = [answer.score for answer in rollout.final_answers]
    before: list[float | None] = [0.0] * len(last)
    found = np.zeros(len(turns))
    for place, turn in enumerate(turns):
        is_last = place == len(turns) - 1
        now = last if is_last else [known.get((turn.index, number)) for number in range(len(last))]
        found[place] = _mean_gain(before, now)
        before = now
    return found


def _mean_gain(before: list[float | None], now: list[float | None]) -> float:
    gains = [b - a for a, b in zip(before, now, strict=True) if a is not None and b is not None]
    if not gains:
        return np.nan if now else 0.0
    return float(np.mean(gains))
