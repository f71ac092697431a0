"""The warm start that the package ships: the tiny policy, from random weights to copying and imitating.

    bash launch/warm_start.sh

runs the four commands that made finemem_jax/assets/warm_start, one after the other: about 20 minutes on 2 CPU cores.
`pytest tests/e2e/test_warm_start.py` is the gate of the shipped folder.
"""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "warm_start"
    cfg.model.path = ""
    cfg.model.family = "qwen3"
    cfg.model.preset = "tiny"
    cfg.model.tokenizer = "tiny"
    cfg.data.diary.chunk_questions = 3
    cfg.data.diary.fact_questions = 3
    cfg.data.diary.label_questions = 2
    cfg.sft.stages = ("copy_random", "copy_shuffled")
    cfg.sft.steps = (1000, 1800)
    cfg.sft.lr = (3e-3, 3e-3)
    cfg.sft.batch = 16
    cfg.sft.pool = 2048
    cfg.sft.permuted = 0.4
    cfg.sft.copy_mix = 0.25
    cfg.sft.update_mix = 0.5
    cfg.sft.expert.update_changed = 0.8
    cfg.optimizer.schedule = "cosine"
    cfg.optimizer.weight_decay = 0.01
    cfg.optimizer.b2 = 0.98
    cfg.prompt.max_prompt_tokens = 192
    cfg.train.row_tokens = 256
    cfg.train.microbatch_rows = 4
    return cfg
