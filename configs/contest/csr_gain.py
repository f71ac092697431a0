"""Chunk questions, and memory gain over the final questions."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "csr_gain"
    cfg.rewards.weights.evidence = 0.0
    cfg.rewards.weights.gain = float(csr_eara.chunks(task))
    cfg.rewards.settings.gain = {"over": "final"}
    return cfg
