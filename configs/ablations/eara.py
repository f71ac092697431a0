"""+EARA: outcome and evidence attribution, no chunk questions (paper: .622, 60.7K tokens)."""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "eara"
    cfg.rewards.weights.chunk_qa = 0.0
    return cfg
