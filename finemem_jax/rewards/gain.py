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
    turns, probes = rollout.of(WRITE), _probes(rollout)
    found = np.zeros(len(turns))
    for place, turn in enumerate(turns):
        now = [answer.score for answer in rollout.answers if answer.chunk == turn.chunk]
        nothing = None if turn.index else 0.0
        before = [probes.get((turn.index, False, turn.chunk, number), nothing) for number in range(len(now))]
        found[place] = _mean_gain(before, now)
    return found


def final_gain(rollout: Rollout) -> np.ndarray:
    """[writing turns], over the final questions. Over the steps of one rollout they sum to the final score."""
    turns, probes = rollout.of(WRITE), _probes(rollout)
    count = max((number + 1 for _, _, chunk, number in probes if chunk is None), default=0)
    last = [answer.score for answer in rollout.final_answers]
    count = max(count, len(last))
    previous: list[float | None] = [None if turns and turns[0].index else 0.0] * count
    found = np.zeros(len(turns))
    for place, turn in enumerate(turns):
        before = [probes.get((turn.index, False, None, number), previous[number]) for number in range(count)]
        now = [probes.get((turn.index, True, None, number)) for number in range(count)]
        if place == len(turns) - 1 and last:
            now = last
        found[place] = _mean_gain(before, now)
        previous = now
    return found


def _probes(rollout: Rollout) -> dict[tuple[int, bool, int | None, int], float | None]:
    return {(probe.turn, probe.after, probe.chunk, probe.number): probe.score for probe in rollout.probes}


def _mean_gain(before: list[float | None], now: list[float | None]) -> float:
    gains = [b - a for a, b in zip(before, now, strict=True) if a is not None and b is not None]
    if not gains:
        return np.nan if now else 0.0
    return float(np.mean(gains))
