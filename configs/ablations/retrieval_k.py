"""k, the items retrieved for a question: --configs=configs/ablations/retrieval_k.py:1 and so on."""

from configs import quickstart


def get_config(value="3"):
    cfg = quickstart.get_config()
    cfg.name = "retrieval_k"
    cfg.retrieval.k = int(value)
    return cfg
