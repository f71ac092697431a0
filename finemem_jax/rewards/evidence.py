"""r_EARA(t), Evidence-Anchored Reward Attribution: the final score, given back to the steps that wrote the evidence.

    r_EARA(t) = (1 - β) r_global / T + β N_t
    r_global  = mean_j s_j
    N_t       = Σ_j Σ_{m in R_j, φ(m) = t} s_j / (|R_j| n)

s_j is the score of final question j of n, R_j the items retrieved for it, φ(m) the step that last wrote m.
Conservation: Σ_t r_EARA(t) = r_global, also when R_j is empty, under `unanchored="uniform"`. A step's share is then
about r_global / T, while format and compression pay the same at every step: on long episodes a writer that forgets, and
so keeps memory short, earns more than one that can answer. `scale="per_step"` pays T times as much, Σ_t = T r_global.

What was retrieved is not what was used. `attribution` says how s_j is divided over R_j: evenly, over the items that
the answerer cites, or by what is lost without them (`env/attribution.py`). What that leaves of s_j goes where the share
of a question that retrieved nothing goes, so all of them conserve the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finemem_jax.config import EvidenceConfig, RewardsConfig
from finemem_jax.env import attribution
from finemem_jax.env.probing import CITED, SUBSETS
from finemem_jax.types import WRITE, Answer, CountTokens, Rollout

ROLES, LEVEL = (WRITE,), "turn"
AT_END = True  # what a turn earns is known when the final questions are answered


def evidence_rewards(
    scores: Sequence[float],
    writers: Sequence[Sequence[int | Sequence[int]]],
    num_steps: int,
    *,
    beta: float,
    unanchored: str = "uniform",
    credits: Sequence[Sequence[float]] | None = None,
) -> np.ndarray:
    """r_EARA, [num_steps].

    scores: [questions] in [0, 1]. writers[j]: for each item retrieved for question j, the step φ(m) that wrote
    it, or several steps among which the item's credit is split evenly (`update_credit="shared"`).
    unanchored: what becomes of β s_j / n when nothing was retrieved for j: spread over all steps ("uniform") or
    lost ("drop", the literal formula); likewise of what `credits` leave of it.
    credits[j]: what each item retrieved for question j is paid of s_j, in their order; None = s_j / |R_j| each.

    Example: two steps, β = 1, two right questions; the first retrieved one item of step 0 and one of step 1, the
    second retrieved nothing: N = [0.25, 0.25], and "uniform" adds 0.25 to both, "drop" nothing.
    """
    if not len(scores):
        return np.zeros(num_steps)
    share = np.asarray(scores, dtype=np.float64) / len(scores)  # s_j / n
    evidence = np.zeros(num_steps)
    for question, (credit, items) in enumerate(zip(share, writers, strict=True)):
        if credits is None:
            paid, rest = [credit / max(len(items), 1)] * len(items), 0.0 if len(items) else credit
        else:
            paid = [earned / len(scores) for earned in credits[question]]
            rest = credit - sum(paid)
        if unanchored == "uniform":
            evidence += rest / num_steps
        for item, earned in zip(items, paid, strict=True):
            steps = [item] if isinstance(item, int | np.integer) else list(item)
            for step in steps:
                evidence[step] += earned / len(steps)
    return (1 - beta) * share.sum() / num_steps + beta * evidence


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[writing turns], from the final questions that were answered; NaN (missing, not 0) where the answerer failed on
    all."""
    turns = rollout.of(WRITE)
    asked = rollout.final_answers
    final = [answer for answer in asked if answer.score is not None]
    if asked and not final:
        return np.full(len(turns), np.nan)
    shared = cfg.evidence.update_credit == "shared"
    place = {turn.index: number for number, turn in enumerate(turns)}
    scale = len(turns) if cfg.evidence.scale == "per_step" else 1
    return scale * evidence_rewards(
        [answer.score for answer in final],
        [
            [[place[w] for w in item.writers] if shared else place[item.written_at] for item in answer.retrieved]
            for answer in final
        ],
        len(turns),
        beta=cfg.evidence.beta,
        unanchored=cfg.evidence.unanchored,
        credits=None if cfg.evidence.attribution == "retrieved" else [_credits(a, cfg.evidence) for a in final],
    )


def asks(cfg: RewardsConfig) -> set[str]:
    rule = cfg.evidence.attribution
    return set() if rule == "retrieved" else {CITED if rule == "cited" else SUBSETS}


def _credits(answer: Answer, cfg: EvidenceConfig) -> list[float]:
    """What each of the answer's items is paid of its score. Items that none is cited of are all paid alike."""
    items, score = len(answer.retrieved), answer.score or 0.0
    if cfg.attribution == "cited":
        cited = (answer.reply.cited if answer.reply is not None else None) or range(items)
        return [score / len(cited) if i in cited else 0.0 for i in range(items)]
    known = {bits: value for bits, value in answer.subsets if value is not None}
    scores = {**known, attribution.full(items): score}
    return attribution.item_credit(cfg.attribution, items, scores, cfg.permutations, answer.question.text)
