"""G, the samples of an episode, at the same number of rollouts a step: --configs=configs/ablations/group_size.py:4."""

from configs import quickstart


def get_config(value="8"):
    cfg = quickstart.get_config()
    cfg.name = "group_size"
    rollouts = cfg.train.episodes * cfg.train.group_size
    cfg.train.group_size = int(value)
    cfg.train.episodes = rollouts // int(value)
    return cfg
