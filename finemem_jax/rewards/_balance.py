"""Whether a config pays for forgetting: what the terms are worth over a whole episode, against each other."""

from __future__ import annotations

from finemem_jax.config import RewardsConfig

AT_RISK = 0.5  # accuracy below which a policy must not find forgetting the better trade


def forgetting_pays(cfg: RewardsConfig, chunks: int) -> str:
    """One line where a memory that keeps nothing can earn more than one that answers; "" where it cannot.

    chunks: T, of the longest episode. Compression is paid at every step, so over an episode an empty memory saves up to
    T w_compression. What the answers at the end are worth depends on the scale: w_evidence in all (paper), or T
    times that (per_step); the outcome is paid at every step. A policy whose accuracy is below the ratio of the two
    does better to forget. Chunk questions are asked right after their step, and hold nobody back from forgetting later.
    """
    weights = cfg.weights
    saved = chunks * weights["compression"]
    answers = weights["evidence"] * (chunks if cfg.evidence.scale == "per_step" else 1) + chunks * weights["outcome"]
    if cfg.settings.get("gain", {}).get("over") != "chunk":
        answers += weights["gain"]  # over the final questions it sums to their score
    if saved <= 0 or saved < AT_RISK * answers:
        return ""
    return (
        f"WARNING: over {chunks} chunks a memory that keeps nothing saves up to {saved:.2f} of reward "
        f"(config.rewards.weights.compression={weights['compression']} at every step), and all answers at the end are "
        f"worth {answers:.2f}: forgetting can pay. Set config.rewards.evidence.scale=per_step, or lower that weight"
    )
