"""The final score alone, spread evenly: no chunk questions, no evidence (paper: .627, 92.4K tokens)."""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "outcome_only"
    cfg.rewards.weights.chunk_qa = 0.0
    cfg.rewards.evidence.beta = 0.0
    return cfg
