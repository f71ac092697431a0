"""How many questions a rollout puts to the answerer, by what for: the part of a run's cost that no chip pays."""

from __future__ import annotations

from finemem_jax.config import Config
from finemem_jax.env.attribution import EXACT
from finemem_jax.env.probing import CHUNK, asked_by, wanted


def asked_line(cfg: Config, chunks: int) -> str:
    """One line for an episode of `chunks` chunks. Upper bounds: chunks may have fewer questions, questions may retrieve
    fewer items, and what was asked before of the same items costs nothing."""
    about_chunks = chunks * cfg.rewards.chunk_questions if CHUNK in asked_by(cfg.rewards) else 0
    probing = wanted(cfg.rewards)
    per_final = {"itself": 1}
    if probing.along:
        per_final["gain"] = chunks - 1
    if probing.rule:
        k = cfg.retrieval.k
        by_shapley = 2**k - 1 if k <= EXACT else 1 + (k - 1) * probing.permutations
        per_final["attribution"] = k if probing.rule == "leave_one_out" else by_shapley
    if probing.before:
        about_chunks *= 2
    parts = ", ".join(f"{name} {count}" for name, count in per_final.items())
    return (
        f"  answerer: at most {about_chunks} questions about chunks in a rollout of {chunks} chunks, and for each "
        f"final question {sum(per_final.values())} ({parts}); a step has "
        f"{cfg.train.episodes * cfg.train.group_size} rollouts"
    )
