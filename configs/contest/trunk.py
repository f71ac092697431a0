"""Samples of one memory compared, by chunk questions and memory gain over the final ones."""

from configs.contest import csr_eara


def get_config(task="diary_long"):
    cfg = csr_eara.get_config(task)
    cfg.name = "trunk"
    cfg.advantage.credit = "state"
    cfg.advantage.states = "trunk"
    cfg.rewards.weights.evidence = 0.0
    cfg.rewards.weights.gain = float(csr_eara.chunks(task))
    cfg.rewards.settings.gain = {"over": "final"}
    return cfg
