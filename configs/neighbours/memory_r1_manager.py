"""Memory-R1's manager (arXiv 2508.19828): one turn of a conversation, and what becomes of the entries most like it.

    finemem train --config=configs/neighbours/memory_r1_manager.py --config.data.path=train/locomo10.json \\
      --config.data.eval_path=test/locomo10.json --config.answerer.url=http://localhost:8000/v1

The answerer is the trained answer agent (memory_r1_answer.py), frozen, behind a server and asked in its own words. The
manager is paid by its exact match right after the operations, on the questions whose evidence the turn completes. The
memory is given: the entries of the 50 turns before. From a memory all its own, which they never train:
`--config.data.turns.given=0 --config.data.turns.read=40`.

Hardware there: 4 H100. Not run by us at that size. The data: LoCoMo, 1 conversation to train on, 1 to validate and 8 to
test, non-commercial.

Where we differ, or it does not say:

    entries      the lines that were said, unless `config.data.turns.facts` names a model's; there GPT-4o-mini's
    unchanged    entries that stay as they are may be left out of the list; there all of them are repeated
    an unknown id  an UPDATE of it is an error
    group size, KL coefficient, entries shown: not stated there
"""

from finemem_jax import config


def get_config():
    cfg = config.default()
    cfg.name = "memory_r1_manager"
    cfg.model.path = "Qwen/Qwen2.5-7B-Instruct"
    cfg.model.remat = "full"
    cfg.data.name = "locomo_turns"
    cfg.memory.view.select = "relevant"
    cfg.memory.view.max_items = 10
    cfg.prompt.name = "memory_r1"
    cfg.prompt.codec = "memory_list"
    cfg.prompt.max_prompt_tokens = 4096
    cfg.prompt.max_completion_tokens = 2048
    cfg.retrieval.per_kind = 30
    cfg.retrieval.split_by = "speaker"
    cfg.answerer.name = "endpoint"
    cfg.answerer.model = "memory_r1_answer"
    cfg.answerer.prompt = "memory_r1"
    cfg.answerer.temperature = 0.0
    cfg.rewards.weights = {name: 0.0 for name in cfg.rewards.weights} | {"chunk_qa": 1.0}
    cfg.rewards.question_share = 1.0
    cfg.advantage.min_std = 0.0
    cfg.loss.kl_coef = 0.001
    cfg.optimizer.lr = 1e-6
    cfg.train.episodes = 128
    cfg.train.group_size = 8
    cfg.mesh.data = 1
    cfg.mesh.fsdp = -1
    return cfg
