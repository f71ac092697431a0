"""w2, the weight of compression: --configs=configs/ablations/compression_weight.py:0.2 and so on."""

from configs import quickstart


def get_config(value="0.05"):
    cfg = quickstart.get_config()
    cfg.name = "compression_weight"
    cfg.rewards.weights.compression = float(value)
    return cfg
