"""The warm start that the package ships: the tiny policy, from random weights to copying and imitating.

    finemem sft --config=configs/warm_start.py --workdir=runs/warm_start

About 15 minutes on 2 CPU cores. The result, runs/warm_start/hf, is what lies in finemem_jax/assets/warm_start;
`pytest tests/e2e/test_warm_start.py` is its gate. Rebuilding it:

    cp -r runs/warm_start/hf finemem_jax/assets/warm_start
"""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "warm_start"
    cfg.model.path = ""
    cfg.model.family = "qwen3"
    cfg.model.preset = "tiny"
    cfg.model.tokenizer = "tiny"
    cfg.sft.stages = ("copy_random", "copy_shuffled", "expert")
    cfg.sft.steps = (1100, 900, 1100)
    cfg.sft.lr = (3e-3, 2e-3, 1.5e-3)
    cfg.sft.batch = 16
    cfg.sft.pool = 2048
    cfg.sft.save_dtype = "bfloat16"
    cfg.optimizer.schedule = "cosine"
    cfg.optimizer.weight_decay = 0.01
    cfg.optimizer.b2 = 0.98
    cfg.prompt.max_prompt_tokens = 192
    cfg.train.row_tokens = 256
    cfg.train.microbatch_rows = 4
    return cfg
