"""w1, the weight of the chunk questions: --configs=configs/ablations/chunk_weight.py:0.25 and so on."""

from configs import quickstart


def get_config(value="0.5"):
    cfg = quickstart.get_config()
    cfg.name = "chunk_weight"
    cfg.rewards.weights.chunk_qa = float(value)
    return cfg
