"""The paper's rule, and what all rows of the contest share: chunk questions and evidence, samples compared by step.

    bash launch/contest.sh

A row is trained until both its budgets are spent, whatever steps that takes, at a constant learning rate, and evaluated
where each one was. What is compared, and how, was written down before any run: docs/results.md, "The contest".
"""

import importlib


def get_config(task="diary_long"):
    cfg = importlib.import_module(f"configs.{task}").get_config()
    cfg.name = "csr_eara"
    cfg.rewards.evidence.scale = "paper"
    cfg.optimizer.schedule = "constant"
    cfg.optimizer.lr = 2e-4
    cfg.optimizer.warmup = 0.02  # of the updates of `train.steps`: the first 8 steps
    cfg.train.steps = 400  # more than any row needs for its budgets
    cfg.train.budget_tokens = 300_000
    cfg.train.budget_answers = 15_000
    cfg.train.budget_until = "all"
    cfg.train.eval_every = 0
    cfg.train.checkpoint_every = 25
    cfg.eval.episodes = 0
    cfg.eval.temperatures = (1.0,)
    cfg.eval.baselines = ()
    return cfg


def chunks(task):
    """T of a task: what makes a term that sums to the final score over the steps worth that score at each of them."""
    return {"diary_long": 16, "real_text": 4}[task]
