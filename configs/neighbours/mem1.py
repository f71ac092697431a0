"""MEM1 (arXiv 2506.15841) over a stream: the policy's last thought is its memory, and it answers itself.

    finemem train --config=configs/neighbours/mem1.py --config.data.path=hotpotqa.parquet \\
      --config.data.eval_path=held_out.parquet

The data: two questions an episode, `finemem data build --source=hotpotqa --chunk-tokens=1000 --questions=2`. The agent
that searches, which is what was published, is configs/neighbours/mem1_search.py.

Hardware there: 4 GPUs for the 7B. Not run by us: no such machine was at hand, and nobody has published this form.

Where we differ, or it does not say:

    the loop     the texts are read one after the other; there the policy looks for them
    algorithm    GRPO; there PPO with a value head for the 7B, and GRPO with 5 rollouts for the larger ones
    reward       the mean over the questions; there their sum
    rows         a turn with the tokens of its context; there a whole episode under a mask, which did not mask
"""

from finemem_jax import config


def get_config():
    cfg = config.default()
    cfg.name = "mem1"
    cfg.model.path = "Qwen/Qwen2.5-7B"
    cfg.model.remat = "full"
    cfg.data.name = "memalpha"
    cfg.memory.name = "overwrite"
    cfg.memory.max_tokens = 1000
    cfg.prompt.name = "mem1"
    cfg.prompt.codec = "think"
    cfg.method.answers = "policy"
    cfg.method.answer_tokens = 1000
    cfg.method.sees_question = True
    cfg.prompt.max_prompt_tokens = 4096
    cfg.prompt.max_completion_tokens = 1000
    cfg.engine.cache_tokens = 5120
    cfg.rewards.weights = {name: 0.0 for name in cfg.rewards.weights} | {"outcome": 1.0}
    cfg.rewards.question_share = 1.0
    cfg.advantage.credit = "trajectory"
    cfg.train.episodes = 128
    cfg.train.group_size = 5
    cfg.train.mini_batches = 2
    cfg.train.steps = 500
    cfg.loss.kl_coef = 0.001
    cfg.optimizer.lr = 1e-6
    cfg.mesh.data = 1
    cfg.mesh.fsdp = -1
    cfg.eval.baselines = ("no_memory", "store_all", "oracle")
    return cfg
