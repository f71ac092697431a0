"""Both agents of Memory-R1 (arXiv 2508.19828) at once, which it names as what it could not do.

    finemem train --config=configs/neighbours/memory_r1_both.py --config.data.path=train/locomo10.json \\
      --config.data.eval_path=test/locomo10.json

One policy writes and answers, with an adapter for each role: the cache's pages, the tokens of an update and the
exported folders are each role's own. `"--config.model.lora.roles=()"` lets both share one. The answer is paid by its
own exact match, the writing turn by that of all its questions (evidence with beta 0: their mean). All else as in
memory_r1_manager.py.
"""

from configs.neighbours import memory_r1_manager


def get_config():
    cfg = memory_r1_manager.get_config()
    cfg.name = "memory_r1_both"
    cfg.model.lora.rank = 32
    cfg.model.lora.alpha = 64.0
    cfg.model.lora.roles = ("write", "answer")
    cfg.method.answers = "policy"
    cfg.method.answer_tokens = 2048
    cfg.answerer.name = "extractive"  # is asked nothing
    cfg.rewards.weights = {name: 0.0 for name in cfg.rewards.weights} | {"evidence": 1.0, "own_answer": 1.0}
    cfg.rewards.evidence.beta = 0.0
    cfg.rewards.question_share = 1.0
    cfg.optimizer.lr = 1e-5
    return cfg
