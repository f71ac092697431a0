"""A laptop run of the whole method on the embedded diary task.

    finemem train --config=configs/quickstart.py

2 CPU cores, a few minutes, no download. Figures: docs/results.md.
"""

from finemem_jax import config


def get_config():
    cfg = config.default()
    cfg.name = "quickstart"
    cfg.model.path = "embedded:warm_start"
    cfg.model.dtype = "float32"
    cfg.memory.max_operations = 4
    cfg.memory.max_items = 24
    cfg.memory.max_item_tokens = 24
    cfg.memory.view.max_items = 24
    cfg.prompt.name = "compact"
    cfg.prompt.max_prompt_tokens = 320
    cfg.prompt.max_completion_tokens = 64
    cfg.engine.slots = 64
    cfg.engine.cache_tokens = 384
    cfg.retrieval.k = 3
    cfg.rewards.question_share = 1.0
    cfg.rewards.chunk_questions = 4
    cfg.data.diary.chunk_questions = 4
    cfg.data.diary.fact_questions = 4
    cfg.data.diary.changed_questions = 2
    cfg.data.diary.label_questions = 1
    cfg.train.steps = 45
    cfg.train.episodes = 8
    cfg.train.group_size = 8
    cfg.train.mini_batches = 4
    cfg.train.microbatch_rows = 4
    cfg.train.logprob_chunk = 32
    cfg.train.eval_every = 15
    cfg.train.checkpoint_every = 15
    cfg.loss.kl_coef = 0.0
    cfg.optimizer.lr = 1e-3
    cfg.optimizer.schedule = "linear"
    cfg.optimizer.weight_decay = 0.0
    cfg.eval.episodes = 64
    return cfg
