"""Chunk questions and memory gain, on episodes that grow from a quarter of their length to the whole."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "curriculum"
    cfg.rewards.weights.evidence = 0.0
    chunks = csr_eara.chunks(task)
    cfg.rewards.weights.gain = float(chunks)
    cfg.rewards.settings.gain = {"over": "final"}
    cfg.train.curriculum = (chunks // 4, chunks // 2, chunks)
    return cfg
