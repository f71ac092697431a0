"""Memory-R1's answer agent (arXiv 2508.19828): from 30 entries of every participant to a selection and an answer.

    finemem train --config=configs/neighbours/memory_r1_answer.py --config.data.path=train/locomo10.json \\
      --config.data.eval_path=test/locomo10.json

The first of the two stages there: the memory is given, of the whole conversation, and nothing is written. An answer is
paid by its exact match. A judge's reward, which they tried and left: `--config.judge.name=endpoint
--config.judge.url=http://localhost:8000/v1 "--config.judge.sources=('locomo_turns',)"`. All else as in
memory_r1_manager.py.
"""

from configs.neighbours import memory_r1_manager


def get_config():
    cfg = memory_r1_manager.get_config()
    cfg.name = "memory_r1_answer"
    cfg.data.turns.read = 0
    cfg.data.turns.given = -1
    cfg.method.answers = "policy"
    cfg.method.answer_tokens = 2048
    cfg.answerer.name = "extractive"  # is asked nothing
    cfg.rewards.weights = {name: 0.0 for name in cfg.rewards.weights} | {"own_answer": 1.0}
    cfg.rewards.question_share = 1.0
    return cfg
