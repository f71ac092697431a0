"""Advantages centred and not divided by the group's deviation (Dr.GRPO)."""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "std_none"
    cfg.advantage.std = "none"
    return cfg
