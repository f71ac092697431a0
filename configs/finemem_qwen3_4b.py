"""Fine-Mem's own setting (arXiv 2601.08435): Qwen3-4B, trained on the Memalpha corpus.

    finemem train --config=configs/finemem_qwen3_4b.py --config.data.path=memalpha/train.parquet \
      --config.answerer.url=http://localhost:8000/v1

The answerer is the paper's, Qwen3-32B without thinking, behind any OpenAI-compatible server; without its URL the run
does not start. The embedded `extractive` answerer is no substitute here: under it a writer that forgets everything
earns more than an honest one. The published rows have no questions about single chunks: write them once with
`finemem data chunk-questions`, or the chunk term has nothing to say.

Hardware of the paper: 32 H100, about 3 days for 205 steps; about 2,700 sequences a step. The score to expect, as
printed there: 0.663 on the mean of Memalpha's validation tasks. Not run by us: no such machine was at hand.

Where we differ from the paper, or it does not say:

    format       an operation counts as well-formed only if it also applies: a known id, within the write limits
    evidence     the share of a question that retrieved nothing is spread over all steps, so that shares sum to the
                 final score (rewards.evidence.unanchored="drop" is the printed formula)
    scale        the paper's: an episode's evidence sums to its score, while format and compression are paid at every
                 step. With instances of ten chunks or more a run says at its start that forgetting can pay;
                 rewards.evidence.scale="per_step" is ours, and not what the paper ran
    retrieval    k = 5 items a question; the paper's k was not found, Mem-α's server gives 20 of each of its stores
    advantage    a floor of 0.01 under a group's deviation (advantage.min_std)
    KL           k3 to the initial policy, coefficient 0.001, as in Mem-α's script; Mem-α's text says it has none
    mini-batches one update a step over all its sequences; Mem-α's run makes one per 32 sequences, about 85 a step
    limits       16 operations a chunk, 512 tokens an item (memory.*), without which the chunk term rewards copying
"""

from finemem_jax import config


def get_config():
    cfg = config.default()
    cfg.name = "finemem_qwen3_4b"
    cfg.model.path = "Qwen/Qwen3-4B"
    cfg.model.remat = "full"
    cfg.data.name = "memalpha"
    cfg.answerer.name = "endpoint"
    cfg.answerer.model = "Qwen/Qwen3-32B"
    cfg.answerer.temperature = 0.1
    cfg.answerer.extra = '{"chat_template_kwargs": {"enable_thinking": false}}'
    cfg.train.steps = 205
    cfg.train.episodes = 32
    cfg.train.group_size = 8
    cfg.train.temperature = 1.0
    cfg.train.eval_every = 50
    cfg.mesh.data = 1
    cfg.mesh.fsdp = -1
    cfg.optimizer.lr = 1e-6
    cfg.rewards.evidence.beta = 0.5
    cfg.rewards.evidence.scale = "paper"
    cfg.rewards.weights.chunk_qa = 0.5
    cfg.rewards.weights.compression = 0.05
    cfg.rewards.chunk_questions = 5
    cfg.rewards.question_share = 0.2
    cfg.prompt.max_prompt_tokens = 6144
    cfg.prompt.max_completion_tokens = 2048
    cfg.engine.cache_tokens = 8192
    cfg.engine.slots = 16  # a full cache of 16 slots is 18 GiB a host: what four v5e chips have room for
    return cfg
