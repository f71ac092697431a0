"""The paper's rule, answers worth the same in episodes of any length."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "csr_eara_per_step"
    cfg.rewards.evidence.scale = "per_step"
    return cfg
