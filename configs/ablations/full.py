"""The full Fine-Mem reward: chunk questions and evidence attribution (paper: .663, 79.1K tokens)."""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "full"
    return cfg
