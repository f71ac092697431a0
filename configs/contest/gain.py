"""Memory gain over the final questions alone."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "gain"
    cfg.rewards.weights.chunk_qa = 0.0
    cfg.rewards.weights.evidence = 0.0
    cfg.rewards.weights.gain = float(csr_eara.chunks(task))
    cfg.rewards.settings.gain = {"over": "final"}
    return cfg
