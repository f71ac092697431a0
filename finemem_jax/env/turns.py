"""The table that credit is given by: one line per turn of all rollouts of a training step, with its reward terms.

What could not be answered (the answerer failed) is missing, never zero, and no sample is compared with another on a
fault of the infrastructure:

- a question that one sample of a group got no answer to is left out for the whole group;
- where no question is left that a term is made of, nothing that is compared on that term has a reward, hence no
  gradient. The rest of the terms must not stand for the whole: format and compression alone are highest for a policy
  that writes nothing, so an answerer that fails would teach it to.

How many comparisons are left out is reported, and watched by an alarm (`guards.missing_rewards`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from finemem_jax.config import AdvantageConfig, RewardsConfig, UserError, resolve
from finemem_jax.env.credit import numbered
from finemem_jax.env.probing import CHUNK, asked_by
from finemem_jax.types import ROLES, Answer, CountTokens, Probe, Rollout

TRAJECTORY = "trajectory"


class Term(Protocol):
    """A file of rewards/, as far as the table reads it."""

    ROLES: Sequence[str]
    LEVEL: str

    def turn_rewards(self, rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray | float: ...


class TermFailed(RuntimeError):
    """A reward term raised, or gave something that is no reward."""


@dataclass(frozen=True, slots=True)
class Turns:
    """One line per turn, ordered by group, sample and turn. All arrays are [turns]."""

    group: np.ndarray  # int
    sample: np.ndarray  # int, within the group
    index: np.ndarray  # int, running number in the rollout
    role: np.ndarray  # int, place in types.ROLES
    # unweighted, only terms with a weight; NaN = missing; 0 on turns that the term does not speak of
    terms: Mapping[str, np.ndarray]
    speaks: Mapping[str, np.ndarray]  # bool: whether the term says anything of the turn
    # int, number within the table of the memory that several turns of a group wrote from; -1 where it alone did
    state: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    at_end: frozenset[str] = frozenset()  # terms that are measured at the end of the episode, not at the turn

    def __post_init__(self) -> None:
        if len(self.state) != len(self.group):
            object.__setattr__(self, "state", np.full(len(self.group), -1, np.int64))

    def __len__(self) -> int:
        return len(self.group)

    def split(self, values: np.ndarray) -> list[list[np.ndarray]]:
        """[turns] -> for every group, for every sample, its turns' values in order."""
        found: list[list[np.ndarray]] = []
        for g in range(int(self.group[-1]) + 1 if len(self) else 0):
            of_group = self.group == g
            samples = int(self.sample[of_group].max(initial=-1)) + 1
            found.append([values[of_group & (self.sample == s)] for s in range(samples)])
        return found


def tabulate(groups: Sequence[Sequence[Rollout]], cfg: RewardsConfig, count_tokens: CountTokens) -> Turns:
    """Every turn of every rollout with its reward terms. Terms of weight 0 are not computed, and those of the episode's
    end not for rollouts that have none.

    A term (a file in rewards/) says of which ROLES it speaks and whether its LEVEL is the turn or the trajectory; one
    of the trajectory stands on each of the rollout's turns of those roles.
    """
    rollouts = [(g, s, r) for g, group in enumerate(groups) for s, r in enumerate(answered_alike(group))]
    lines = [(g, s, step.index, ROLES.index(step.role)) for g, s, rollout in rollouts for step in rollout.steps]
    group, sample, index, role = np.array(lines, np.int64).reshape(-1, 4).T
    terms, speaks, at_end = {}, {}, set()
    has_end = np.array([not r.branches for _, _, r in rollouts for _ in r.steps], bool)
    numbers: dict[tuple[int, str], int] = {}
    state = [
        numbers.setdefault((g, step.state), len(numbers)) if step.state else -1
        for g, _, rollout in rollouts
        for step in rollout.steps
    ]
    for name, weight in cfg.weights.items():
        if weight == 0:
            continue
        term = resolve("finemem_jax.rewards", name)
        roles = [ROLES.index(spoken) for spoken in term.ROLES]
        speaks[name] = np.isin(role, roles)
        is_at_end = getattr(term, "AT_END", term.LEVEL == TRAJECTORY)
        if is_at_end:
            at_end.add(name)
            speaks[name] &= has_end
        terms[name] = np.zeros(len(lines))
        measured = [rollout for _, _, rollout in rollouts if not (is_at_end and rollout.branches)]
        found = [_values(term, name, rollout, cfg, count_tokens) for rollout in measured]
        terms[name][speaks[name]] = np.concatenate(found) if found else []
    return Turns(group, sample, index, role, terms, speaks, np.array(state, np.int64), frozenset(at_end))


def _values(term: Term, name: str, rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """What a term says of a rollout's turns of its roles, in order."""
    turns = sum(len(rollout.of(role)) for role in term.ROLES)
    try:
        values = np.asarray(term.turn_rewards(rollout, cfg, count_tokens), np.float64)
        if term.LEVEL == TRAJECTORY:
            values = np.full(turns, values)
    except Exception as error:  # whatever a plug-in raises
        raise TermFailed(f"rewards/{name}.py: {type(error).__name__}: {error}") from error
    if values.shape != (turns,):
        raise TermFailed(f"rewards/{name}.py: turn_rewards gave {values.shape} for {turns} turns of {term.ROLES}")
    return values


def adapter_of(role: str, roles: Sequence[str]) -> int:
    """The place of a turn's role among those that have adapters of their own (`config.model.lora.roles`); 0 where all
    share one."""
    if roles and role not in roles:
        raise UserError(
            f"config.model.lora.roles={tuple(roles)} has no adapter for turns of the role {role!r}: name it"
        )
    return roles.index(role) if roles else 0


def totals(turns: Turns, weights: Mapping[str, float], names: Collection[str] | None = None) -> np.ndarray:
    """r = Σ_terms w_term r_term of every turn, [turns]; NaN where a term is missing. names: of these terms only."""
    total = np.zeros(len(turns))
    for name, term in turns.terms.items():
        if names is None or name in names:
            total += weights[name] * term
    return total


def step_keys(turns: Turns) -> np.ndarray:
    """[turns]: turns of one group, role and running number have the same key."""
    return numbered(np.stack([turns.group, turns.role, turns.index], axis=1))


def advantages(turns: Turns, weights: Mapping[str, float], cfg: AdvantageConfig) -> np.ndarray:
    """[turns], by the credit rule of the config (a file in credit/); NaN: the turn is not trained on."""
    return resolve("finemem_jax.credit", cfg.credit).advantages(turns, weights, cfg)


def compared(turns: Turns, cfg: AdvantageConfig) -> np.ndarray:
    """[turns] ints: turns with the same number are compared with each other."""
    return resolve("finemem_jax.credit", cfg.credit).keys(turns)


def answered_alike(group: Sequence[Rollout]) -> list[Rollout]:
    """The samples of a group, a question that one of them got no answer to unanswered for all.

    Left out for that sample alone, it would be judged by other questions than those it is compared with. All samples
    of a group are asked the same, so the n-th question about a chunk (or of the final ones) is the same for all.
    """
    lost = {key for rollout in group for key, answer in _numbered(rollout) if _is_lost(answer)}
    lost_on_the_way = {_place(probe) for rollout in group for probe in rollout.probes if probe.score is None}
    if not lost and not lost_on_the_way:
        return list(group)
    return [
        replace(
            rollout,
            answers=tuple(replace(a, score=None) if key in lost else a for key, a in _numbered(rollout)),
            probes=tuple(replace(p, score=None) if _place(p) in lost_on_the_way else p for p in rollout.probes),
        )
        for rollout in group
    ]


def _is_lost(answer: Answer) -> bool:
    """Whether the question cannot be paid for: it, or what was asked again without some of its items, has no answer."""
    return answer.score is None or any(score is None for _, score in answer.subsets)


def _place(probe: Probe) -> tuple[int, bool, int | None, int]:
    return probe.turn, probe.after, probe.chunk, probe.number


def _numbered(rollout: Rollout) -> list[tuple[tuple[int | None, int], Answer]]:
    """Every answer with its chunk (None: a final one) and its number among those about it."""
    seen: Counter[int | None] = Counter()
    found = []
    for answer in rollout.answers:
        found.append(((answer.chunk, seen[answer.chunk]), answer))
        seen[answer.chunk] += 1
    return found


def variance_shares(
    turns: Turns, weights: Mapping[str, float], found: np.ndarray, keys: np.ndarray
) -> dict[str, float]:
    """Of every term the share of the advantages' variance that it makes: what the policy is really trained on.

    An advantage is a sum over the terms, A = Σ_k A_k with A_k = w_k (r_k - mean r_k) / deviation, so
    share_k = Σ A_k A / Σ A A over all turns. The shares sum to 1; a term that works against the others has a negative
    one. All 0 where there is no advantage at all.

    found: the advantages, [turns]; turns without one count nowhere. keys: [turns], what is compared with what.
    Example: two samples that differ in format alone give format 1 and all other terms 0, whatever their weights.
    """
    exists = ~np.isnan(found)
    values = np.where(exists, found, 0.0).astype(np.float64)
    variance = (values**2).sum()
    spread = np.bincount(keys, weights=around_mean(totals(turns, weights), keys, exists) ** 2, minlength=1)
    scale = np.sqrt(np.bincount(keys, weights=values**2, minlength=1) / np.where(spread > 0, spread, 1.0))
    shares = {}
    for name, term in turns.terms.items():
        part = weights[name] * around_mean(term, keys, exists) * scale[keys]  # scale = 1 / deviation
        shares[name] = float((part * values).sum() / variance) if variance else 0.0
    return shares


def around_mean(values: np.ndarray, keys: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Minus the mean of the key, [turns]; 0 where nothing exists."""
    count = np.maximum(np.bincount(keys, weights=exists, minlength=1), 1)
    mean = np.bincount(keys, weights=np.where(exists, values, 0.0), minlength=1) / count
    return np.where(exists, values - mean[keys], 0.0)


def asks_chunk_questions(cfg: RewardsConfig) -> bool:
    """Whether any term with a weight reads the answers to chunk questions."""
    return CHUNK in asked_by(cfg)
