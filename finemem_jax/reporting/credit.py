"""Which question gave each step its evidence reward, from the records of a run.

The amounts are `flows` of rewards/evidence.py, on rollouts read back from the records. Of training they must sum to the
logged term, and are left out where they do not, as with records of older code that lack what an attribution needs. Of
held-out episodes nothing was rewarded: there they are what each step would have been paid, each item that was retrieved
alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finemem_jax.config import Config, EvidenceConfig, RewardsConfig, UserError, resolve
from finemem_jax.env.turns import answered_alike
from finemem_jax.evaluation.records import read_sample
from finemem_jax.schema.convert import build
from finemem_jax.types import WRITE, Flow, Rollout

TERM = "evidence"
_TOLERANCE = 1e-6  # of a sum of flows beside a logged value, which has 9 digits


def evidence_rules(cfg: Mapping[str, Any]) -> EvidenceConfig:
    """Those of a stored config, of any code; the defaults where it has none."""
    stored = (cfg.get("rewards") or {}).get("evidence") if isinstance(cfg.get("rewards"), Mapping) else None
    known = {field.name for field in dataclasses.fields(EvidenceConfig)}
    try:
        return build(EvidenceConfig, {k: v for k, v in (stored or {}).items() if k in known}, "rewards.evidence")
    except (UserError, AttributeError):
        return Config().rewards.evidence


def as_retrieved(rules: EvidenceConfig) -> EvidenceConfig:
    """The rules of held-out episodes, of whose answers nothing further is asked."""
    return dataclasses.replace(rules, attribution="retrieved")


def group_flows(samples: Sequence[Mapping], rules: EvidenceConfig) -> list[list[Flow]] | None:
    """Of every sample of a recorded group its flows; None where they cannot be told, or do not sum to what is logged.

    samples: as `group_record` makes them; without "rewards" there is nothing to compare with."""
    flows_of = _flows_of(rules)
    try:
        rollouts = answered_alike([read_sample(sample) for sample in samples])
        found = [flows_of(rollout) for rollout in rollouts]
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    for sample, rollout, flows in zip(samples, rollouts, found, strict=True):
        logged = sample.get("rewards", {}).get(TERM)
        if logged is not None and not _agree(into_turns(flows, rollout), logged):
            return None
    return found


@functools.cache  # for thousands of groups: a config looks through the folders of plug-ins
def _flows_of(rules: EvidenceConfig) -> Callable[[Rollout], list[Flow]]:
    return functools.partial(resolve("finemem_jax.rewards", TERM).flows, cfg=RewardsConfig(evidence=rules))


def into_turns(flows: Sequence[Flow], rollout: Rollout) -> np.ndarray:
    """[turns]: what flows into each turn of the rollout, of any role."""
    writes = [place for place, step in enumerate(rollout.steps) if step.role == WRITE]
    found = np.zeros(len(rollout.steps))
    for flow in flows:
        for turn in flow.turns:
            found[writes[turn]] += flow.amount / len(flow.turns)
    return found


def _agree(found: np.ndarray, logged: Sequence[float | None]) -> bool:
    """A missing reward (null) has no flow to compare: nothing was answered, or what it is compared with is missing."""
    return len(found) == len(logged) and all(
        value is None or abs(value - flow) <= _TOLERANCE for flow, value in zip(found, logged, strict=True)
    )


def compact_flows(flows: Sequence[Flow], answers: int) -> list:
    """For every final question [to all turns alike, lost, [for each item retrieved for it]], or 0 without an answer."""
    found: list = [0] * answers
    for flow in flows:
        if not found[flow.question]:
            found[flow.question] = [0.0, 0.0, []]
        entry, amount = found[flow.question], float(f"{flow.amount:.6g}")
        if flow.item is not None:
            entry[2].append(amount)
        else:
            entry[0 if flow.turns else 1] += amount
    return found
