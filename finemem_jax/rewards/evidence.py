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

from collections.abc import Iterator, Sequence

import numpy as np

from finemem_jax.config import EvidenceConfig, RewardsConfig
from finemem_jax.env import attribution
from finemem_jax.env.probing import CITED, SUBSETS
from finemem_jax.types import BEFORE, WRITE, Answer, CountTokens, Flow, Rollout

ROLES, LEVEL = (WRITE,), "turn"
AT_END = True  # what a turn earns is known when the final questions are answered

Writers = Sequence[Sequence[int | Sequence[int | None] | None]]
"""For each question, for each of its items, the step or steps that wrote it; None: the episode began with it."""


def evidence_rewards(
    scores: Sequence[float],
    writers: Sequence[Sequence[int | Sequence[int | None] | None]],
    num_steps: int,
    *,
    beta: float,
    unanchored: str = "uniform",
    credits: Sequence[Sequence[float]] | None = None,
) -> np.ndarray:
    """r_EARA, [num_steps].

    scores: [questions] in [0, 1]. writers[j]: for each item retrieved for question j, the step φ(m) that wrote
    it, or several steps among which the item's credit is split evenly (`update_credit="shared"`); of no step
    (None) for what the episode began with, whose credit is left over.
    unanchored: what becomes of β s_j / n when nothing was retrieved for j: spread over all steps ("uniform") or
    lost ("drop", the literal formula); likewise of what `credits` leave of it.
    credits[j]: what each item retrieved for question j is paid of s_j, in their order; None = s_j / |R_j| each.

    Example: two steps, β = 1, two right questions; the first retrieved one item of step 0 and one of step 1, the
    second retrieved nothing: N = [0.25, 0.25], and "uniform" adds 0.25 to both, "drop" nothing.
    """
    if not len(scores) or not num_steps:
        return np.zeros(num_steps)
    share = np.asarray(scores, dtype=np.float64) / len(scores)  # s_j / n
    evidence = np.zeros(num_steps)
    for rest, paid in _divided(share, writers, credits):
        if unanchored == "uniform":
            evidence += rest / num_steps
        for steps, earned in paid:
            for step in steps:
                evidence[step] += earned / len(steps)
    return (1 - beta) * share.sum() / num_steps + beta * evidence


def _divided(
    share: np.ndarray,
    writers: Writers,
    credits: Sequence[Sequence[float]] | None,
) -> Iterator[tuple[float, list[tuple[list[int], float]]]]:
    """Of every question what becomes of its s_j / n: what no item is paid, and for each item its steps and its part."""
    for question, (credit, items) in enumerate(zip(share, writers, strict=True)):
        if credits is None:
            paid, rest = [credit / max(len(items), 1)] * len(items), 0.0 if len(items) else credit
        else:
            paid = [earned / len(share) for earned in credits[question]]
            rest = credit - sum(paid)
        found = []
        for item, part in zip(items, paid, strict=True):
            steps = list(item) if isinstance(item, Sequence) else [item]
            known = [step for step in steps if step is not None]
            rest += part * (1 - len(known) / len(steps))
            found.append((known, part * len(known) / len(steps)))
        yield rest, found


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[writing turns], from the final questions that were answered; NaN (missing, not 0) where the answerer failed on
    all."""
    turns, asked = rollout.of(WRITE), rollout.final_answers
    if not turns:  # a method that writes nothing
        return np.zeros(0)
    final = [answer for answer in asked if answer.score is not None]
    if asked and not final:
        return np.full(len(turns), np.nan)
    return _scale(len(turns), cfg.evidence) * evidence_rewards(
        [answer.score for answer in final if answer.score is not None],
        _writers(rollout, final, cfg.evidence),
        len(turns),
        beta=cfg.evidence.beta,
        unanchored=cfg.evidence.unanchored,
        credits=_all_credits(final, cfg.evidence),
    )


def flows(rollout: Rollout, cfg: RewardsConfig) -> list[Flow]:
    """What `turn_rewards` gives, by the question that gave it: for each writing turn the flows into it sum to its
    reward, and those out of a question to its s_j / n (T times that with scale "per_step"). None where no question was
    answered.

    A question has one flow to all writing turns alike, (1 - β) s_j / n and what of its evidence goes to all; one that
    is lost (unanchored "drop"); and one for each item retrieved for it.
    """
    turns = rollout.of(WRITE)
    if not turns:
        return []
    final = [(place, answer) for place, answer in enumerate(rollout.final_answers) if answer.score is not None]
    answers, rules = [answer for _, answer in final], cfg.evidence
    scale, found = _scale(len(turns), rules), []
    share = np.array([answer.score for answer in answers], np.float64) / max(len(answers), 1)
    divided = _divided(share, _writers(rollout, answers, rules), _all_credits(answers, rules))
    for (place, _), credit, (rest, paid) in zip(final, share, divided, strict=True):
        spread = rest if rules.unanchored == "uniform" else 0.0
        to_all = (1 - rules.beta) * credit + rules.beta * spread
        found.append(Flow(place, None, range(len(turns)), scale * float(to_all)))
        if rest != spread:
            found.append(Flow(place, None, (), scale * float(rules.beta * rest)))
        found += [Flow(place, i, steps, scale * float(rules.beta * part)) for i, (steps, part) in enumerate(paid)]
    return found


def _scale(turns: int, cfg: EvidenceConfig) -> int:
    return turns if cfg.scale == "per_step" else 1


def _writers(rollout: Rollout, answers: Sequence[Answer], cfg: EvidenceConfig) -> Writers:
    """For each answer, for each of its items, the place among the writing turns of the one that is paid for it, or of
    all that are."""
    place: dict[int, int | None] = {turn.index: number for number, turn in enumerate(rollout.of(WRITE))}
    place[BEFORE] = None
    shared = cfg.update_credit == "shared"
    return [
        [[place[w] for w in item.writers] if shared else place[item.written_at] for item in answer.retrieved]
        for answer in answers
    ]


def _all_credits(answers: Sequence[Answer], cfg: EvidenceConfig) -> list[list[float]] | None:
    return None if cfg.attribution == "retrieved" else [_credits(answer, cfg) for answer in answers]


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
