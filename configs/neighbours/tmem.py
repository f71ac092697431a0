"""TMEM's setting (arXiv 2606.04536): memory in fast weights, written inside the episode; the base is trained by RL.

    finemem train --config=configs/neighbours/tmem.py --config.data.path=locomo_train.jsonl

The data: a long dialogue, or documents, with questions at its end, in the package's own format
(`finemem data build --source=locomo`). A context of 4,096 tokens is the paper's for dialogues; it takes 12,288 for
documents and 8,192 for search.

No code of it is public. Not run by us at this size: no such machine was at hand. From the paper: rank 6 on gate, up and
down of the last 4 layers, scale 1, the basis of the kernels' singular vectors, SGD of 5 epochs, batches of 16, rate
5e-4; pairs in JSON; the outcome of the trajectory copied to all its turns.

Where it does not say, ours:

    learned      the reply alone, in the prompt in which its question will be asked
    pairs        at most 32 a write, none of earlier writes again
    base         Qwen3-4B; group, batch, learning rate and KL as in Fine-Mem's run
    reference    sees the fast weights that the policy had (config.loss.reference_sees_fast)
    reward       of a turn that writes pairs: beside the outcome a tenth for their format
"""

from finemem_jax import config


def get_config():
    cfg = config.default()
    cfg.name = "tmem"
    cfg.model.path = "Qwen/Qwen3-4B"
    cfg.model.remat = "full"
    cfg.data.name = "memalpha"
    cfg.memory.name = "none"
    cfg.method.name = "parametric"
    cfg.method.answers = "policy"
    cfg.method.fast.rank = 6
    cfg.method.fast.layers = 4
    cfg.method.fast.scale = 1.0
    cfg.method.fast.basis = "svd"
    cfg.method.fast.lr = 5e-4
    cfg.method.fast.epochs = 5
    cfg.method.fast.batch = 16
    cfg.method.fast.context_tokens = 4096
    cfg.method.fast.codec = "qwen"
    cfg.prompt.name = "short"
    cfg.prompt.max_prompt_tokens = 6144
    cfg.prompt.max_completion_tokens = 2048
    cfg.engine.cache_tokens = 8192
    cfg.rewards.weights = {name: 0.0 for name in cfg.rewards.weights} | {"outcome": 1.0, "format": 0.1}
    cfg.rewards.question_share = 1.0
    cfg.advantage.credit = "trajectory"
    cfg.train.episodes = 32
    cfg.train.group_size = 8
    cfg.loss.kl_coef = 0.001
    cfg.optimizer.lr = 1e-6
    cfg.mesh.data = 1
    cfg.mesh.fsdp = -1
    cfg.eval.baselines = ("no_memory", "store_all", "oracle")
    return cfg
