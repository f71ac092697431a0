"""β, the share of the final score that follows the evidence: --configs=configs/ablations/beta.py:0.25 and so on."""

from configs import quickstart


def get_config(value="0.5"):
    cfg = quickstart.get_config()
    cfg.name = "beta"
    cfg.rewards.evidence.beta = float(value)
    return cfg
