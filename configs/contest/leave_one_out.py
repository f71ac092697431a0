"""Chunk questions, and evidence paid to the items without which an answer is wrong."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "leave_one_out"
    cfg.rewards.evidence.scale = "per_step"
    cfg.rewards.evidence.attribution = "leave_one_out"
    return cfg
