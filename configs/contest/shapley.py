"""Chunk questions, and evidence paid by Shapley value."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "shapley"
    cfg.rewards.evidence.scale = "per_step"
    cfg.rewards.evidence.attribution = "shapley"
    return cfg
