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
    )


def check_probing(cfg: Config) -> None:
    """Raises UserError where a term asks what the method or its answers cannot be asked."""
    further = sorted(asked_by(cfg.rewards) - {CHUNK})
    if not further:
        return
    what = f"a reward term with a weight asks further questions ({', '.join(further)})"
    if not getattr(resolve("finemem_jax.methods", cfg.method.name), "PROBES", False):
        raise UserError(f"{what}, which config.method.name={cfg.method.name} does not ask; stream does")
    if cfg.method.answers == "policy":
        raise UserError(f"{what} of a frozen answerer: set config.method.answers=answerer, not policy")
