"""The final score alone, the same for every step."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "outcome_only"
    cfg.rewards.weights.chunk_qa = 0.0
    cfg.rewards.weights.evidence = 0.0
    cfg.rewards.weights.outcome = 1.0
    return cfg
