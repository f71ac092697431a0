"""Alarms: a run that goes wrong says so before it wastes a night.

Each watches one metric of the step. `config.guards.NAME.limit` is its threshold and `.action` what happens when the
metric was beyond it for `guards.patience` steps in a row. Everything is a function of the metrics, so alarms.jsonl is
one of the config and the seed, and `state()` goes into the checkpoints.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finemem_jax.config import GuardConfig, GuardsConfig

SMOOTHING = 0.9  # of the reward statistics: weight of the past in each step's mean


@dataclass(frozen=True, slots=True)
class Watch:
    """What an alarm looks at."""

    metric: str
    is_beyond: Callable[[float, float], bool]  # (value, limit)
    meaning: str


WATCHES = {
    "reward_collapse": Watch(
        "groups_with_gradient", operator.le, "the samples of nearly every group are rewarded alike: nothing is learned"
    ),
    "missing_rewards": Watch(
        "missing_rewards", operator.ge, "groups have no reward and teach nothing, because answers are missing"
    ),
    "missing_rewards_stop": Watch(
        "missing_rewards", operator.ge, "hardly a group has a reward, because answers are missing"
    ),
    "reward_drop": Watch("reward/drop", operator.ge, "the smoothed reward fell below its best"),
    "format_collapse": Watch("valid_operations", operator.le, "hardly an operation is well-formed and applies"),
    "length_explosion": Watch("unfinished", operator.ge, "turns are cut off at prompt.max_completion_tokens"),
    "kl": Watch("loss/ref_kl", operator.ge, "the policy is far from the reference"),
    "drift": Watch("loss/old_kl", operator.ge, "the updates moved far from the policy that sampled"),
    "entropy_low": Watch("loss/nll", operator.le, "the policy has become deterministic"),
    "entropy_high": Watch("loss/nll", operator.ge, "the policy writes at random"),
}


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    metric: str
    value: float
    limit: float
    in_a_row: int  # steps (non_finite: updates)
    action: str  # warn | stop
    meaning: str

    def __str__(self) -> str:
        unit = "updates" if self.name == "non_finite" else "steps"
        return (
            f"alarm {self.name}: {self.meaning} ({self.metric} {self.value:.4g}, "
            f"config.guards.{self.name}.limit={self.limit:g}, {self.in_a_row} {unit} in a row)"
        )

    def record(self) -> dict[str, Any]:
        names = ("name", "metric", "value", "limit", "in_a_row", "action")
        return {name: getattr(self, name) for name in names}


def _sounds(count: int, patience: int, action: str) -> bool:
    """Whether an alarm sounds after `count` steps in a row: after `patience`, twice and four times as many and so on,
    so that a night of them fills no log. One that stops the run does so every `patience` steps that it goes on."""
    times, rest = divmod(count, patience)
    return times > 0 and rest == 0 and (action == "stop" or times & (times - 1) == 0)


class Guards:
    """Counts, for each alarm, the steps in a row in which its metric was beyond the limit."""

    def __init__(self, cfg: GuardsConfig, state: Mapping[str, Any] | None = None):
        """state: what `state()` gave when the checkpoint was made that the run resumes from."""
        self._cfg = cfg
        state = state or {}
        self._in_a_row: dict[str, int] = dict(state.get("in_a_row", {}))
        self._rewards: dict[str, float] = dict(state.get("rewards", {}))  # smoothed mean of every reward term
        self._best: float | None = state.get("best_reward")  # of the smoothed total

    def check(self, line: Mapping[str, float], skipped: Sequence[bool] = ()) -> list[Alarm]:
        """The alarms that sound after a step. line: its metrics. skipped: of each of its updates, whether it was
        skipped for a loss or gradient that is not finite."""
        values = {**line, "reward/drop": self._follow_rewards(line)}
        alarms = self._check_updates(skipped)
        for name, watch in WATCHES.items():
            guard: GuardConfig = getattr(self._cfg, name)
            value = values.get(watch.metric)
            if guard.action == "off" or value is None or not math.isfinite(value):
                continue
            self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if watch.is_beyond(value, guard.limit) else 0
            count = self._in_a_row[name]
            if _sounds(count, self._cfg.patience, guard.action):
                alarms.append(Alarm(name, watch.metric, value, guard.limit, count, guard.action, watch.meaning))
        return alarms

    def state(self) -> dict[str, Any]:
        """JSON-able; the next steps depend on nothing else."""
        return {"in_a_row": self._in_a_row, "rewards": self._rewards, "best_reward": self._best}

    def _check_updates(self, skipped: Sequence[bool]) -> list[Alarm]:
        guard = self._cfg.non_finite
        count, alarms = self._in_a_row.get("non_finite", 0), []
        for is_skipped in skipped:
            count = count + 1 if is_skipped else 0
            if guard.action != "off" and _sounds(count, math.ceil(guard.limit), guard.action):
                meaning = "updates were skipped: the loss or the gradient is not finite"
                alarms.append(
                    Alarm("non_finite", "loss/skipped_updates", 1.0, guard.limit, count, guard.action, meaning)
                )
        self._in_a_row["non_finite"] = count
        return alarms

    def _follow_rewards(self, line: Mapping[str, float]) -> float:
        """Brings the smoothed reward terms up to this step; how far the total is below its best."""
        for name, value in line.items():
            if name.startswith("reward/") and math.isfinite(value):
                before = self._rewards.get(name, value)
                self._rewards[name] = SMOOTHING * before + (1 - SMOOTHING) * value
        total = self._rewards.get("reward/total")
        if total is None:
            return 0.0
        self._best = total if self._best is None else max(self._best, total)
        return self._best - total
