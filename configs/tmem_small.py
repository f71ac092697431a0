"""Memory in fast weights at the smallest size: the tiny policy on the embedded diary task, with no text memory.

    finemem sft --config=configs/tmem_small.py --workdir=runs/tmem_sft
    finemem train --config=configs/tmem_small.py --config.model.path=runs/tmem_sft/hf

The first command teaches it, from the shipped warm start, to write pairs of questions and replies. The second writes
them into weights inside every episode and answers from these alone; it trains what is written, and how well the base
learns it. The learning rate of a write is far above the paper's, as is that of so small a model's training.
"""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "tmem_small"
    cfg.memory.name = "none"
    cfg.method.name = "parametric"
    cfg.method.answers = "policy"
    cfg.method.answer_tokens = 8
    cfg.method.fast.rank = 6
    cfg.method.fast.layers = 2
    cfg.method.fast.lr = 0.1
    cfg.method.fast.context_tokens = 48
    cfg.method.fast.max_texts = 16
    cfg.method.fast.text_tokens = 32
    cfg.method.fast.probes = 0
    cfg.prompt.max_completion_tokens = 96
    cfg.engine.cache_tokens = 416
    cfg.data.diary.examples = 0
    cfg.data.diary.label_questions = 0
    cfg.rewards.weights = {name: 0.0 for name in cfg.rewards.weights} | {"outcome": 1.0, "format": 0.1}
    cfg.advantage.credit = "trajectory"
    cfg.train.steps = 60
    cfg.train.mini_batches = 1
    cfg.eval.baselines = ("no_memory",)
    cfg.sft.stages = ("demonstrations",)
    cfg.sft.steps = (1000,)
    cfg.sft.lr = (2e-3,)
    cfg.sft.batch = 16
    cfg.sft.eval_examples = 0
    cfg.sft.pool = 1024
    return cfg
