"""What is asked beside the questions themselves, for reward terms that compare memories or take items away.

A term (a file in rewards/) says what it reads with `asks(cfg)`, any of the names in ASKS; nothing is asked for a term
without a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finemem_jax.config import Config, RewardsConfig, UserError, resolve

CHUNK, BEFORE, ALONG, SUBSETS, CITED = ASKS = (
    "chunk questions",  # the questions about a chunk, of the memory after its turn
    "before",  # the same questions of the memory before that turn
    "along",  # the final questions of the memory after every turn
    "subsets",  # the final questions with some of the retrieved items left out
    "cited",  # which of the retrieved items an answer to a final question stands in
)


@dataclass(frozen=True, slots=True)
class Probing:
    """Further questions of a rollout, and what an answer has to say."""

    before: bool = False
    along: bool = False
    rule: str = ""  # attribution whose subsets are asked: leave_one_out | shapley; "" = none
    permutations: int = 0  # shapley beyond the items whose subsets are all asked
    cites: bool = False
    judged_by: tuple[str, ...] = ()  # terms that have what a turn wrote judged, while the episode goes on


NO_PROBING = Probing()


def asked_by(cfg: RewardsConfig) -> frozenset[str]:
    """What the terms with a weight ask."""
    found: set[str] = set()
    for name, weight in cfg.weights.items():
        if weight != 0:
            term: Any = resolve("finemem_jax.rewards", name)
            found |= {CHUNK} if getattr(term, "ASKS_CHUNK_QUESTIONS", False) else set()
            found |= set(term.asks(cfg)) if hasattr(term, "asks") else set()
    return frozenset(found)


def wanted(cfg: RewardsConfig) -> Probing:
    asked = asked_by(cfg)
    return Probing(
        before=BEFORE in asked,
        along=ALONG in asked,
        rule=cfg.evidence.attribution if SUBSETS in asked else "",
        permutations=cfg.evidence.permutations if SUBSETS in asked else 0,
        cites=CITED in asked,
        judged_by=judging_terms(cfg),
    )


def judging_terms(cfg: RewardsConfig) -> tuple[str, ...]:
    """Terms with a weight that export `judgement(item) -> JudgeRequest`, what a judge is asked of an item written."""
    weighted = [name for name, weight in cfg.weights.items() if weight != 0]
    return tuple(name for name in weighted if hasattr(resolve("finemem_jax.rewards", name), "judgement"))


def check_probing(cfg: Config) -> None:
    """Raises UserError where a term asks what the method or its answers cannot be asked, or a judge that is none."""
    judging = judging_terms(cfg.rewards)
    if judging and cfg.judge.name == "none":
        raise UserError(
            f"config.rewards.weights.{judging[0]}={cfg.rewards.weights[judging[0]]:g} asks a judge: set "
            "config.judge.name (endpoint, local)"
        )
    if judging and not getattr(resolve("finemem_jax.methods", cfg.method.name), "PROBES", False):
        raise UserError(
            f"config.rewards.weights.{judging[0]} asks a judge while the episode goes on, which "
            f"config.method.name={cfg.method.name} does not; stream does"
        )
    further = sorted(asked_by(cfg.rewards) - {CHUNK})
    if not further:
        return
    what = f"a reward term with a weight asks further questions ({', '.join(further)})"
    if not getattr(resolve("finemem_jax.methods", cfg.method.name), "PROBES", False):
        raise UserError(f"{what}, which config.method.name={cfg.method.name} does not ask; stream does")
    if CITED in further and cfg.answerer.prompt:
        raise UserError(
            f"{what}, and config.answerer.prompt={cfg.answerer.prompt} asks in words that know nothing of citing"
        )
    if cfg.method.answers == "policy":
        raise UserError(f"{what} of a frozen answerer: set config.method.answers=answerer, not policy")
