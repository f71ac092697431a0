"""Fine-Mem's own setting (arXiv 2601.08435): Qwen3-4B, trained on the Memalpha corpus.

    finemem train --config=configs/finemem_qwen3_4b.py --config.data.path=memalpha/train.parquet

The paper's answerer is Qwen3-32B; this config answers with config.answerer.name ("extractive" by default).
Hardware of the paper: 32 H100, about 3 days for 205 steps; about 2,700 sequences a step. The score to expect, as
printed there: 0.663 on the mean of Memalpha's validation tasks. Not run by us: no such machine was at hand.
"""

from finemem_jax import config


def get_config():
    cfg = config.default()
    cfg.name = "finemem_qwen3_4b"
    cfg.model.path = "Qwen/Qwen3-4B"
    cfg.model.remat = "full"
    cfg.data.name = "memalpha"
    cfg.train.steps = 205
    cfg.train.episodes = 32
    cfg.train.group_size = 8
    cfg.train.temperature = 1.0
    cfg.train.eval_every = 50
    cfg.mesh.data = 1
    cfg.mesh.fsdp = -1
    cfg.optimizer.lr = 1e-6
    cfg.rewards.evidence.beta = 0.5
    cfg.rewards.weights.chunk_qa = 0.5
    cfg.rewards.weights.compression = 0.05
    cfg.rewards.chunk_questions = 5
    cfg.rewards.question_share = 0.2
    cfg.prompt.max_prompt_tokens = 6144
    cfg.prompt.max_completion_tokens = 2048
    cfg.engine.cache_tokens = 8192
    cfg.engine.slots = 16  # a full cache of 16 slots is 18 GiB a host: what four v5e chips have room for
    return cfg
