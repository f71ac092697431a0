"""+CSR: outcome and chunk questions, no evidence (paper: .639, 86.2K tokens)."""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "csr"
    cfg.rewards.evidence.beta = 0.0
    return cfg
