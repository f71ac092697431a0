"""No policy at all: every line of every chunk is kept, without a write limit (one row, nothing is trained)."""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "store_all"
    cfg.train.steps = 0
    cfg.eval.temperatures = ()
    cfg.eval.baselines = ("store_all",)
    return cfg
