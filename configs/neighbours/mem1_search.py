"""MEM1 as it was published (arXiv 2506.15841): an agent that searches, and keeps its last thought alone.

    finemem train --config=configs/neighbours/mem1_search.py --config.data.path=hotpotqa.parquet \\
      --config.data.eval_path=held_out.parquet

The data: two questions an episode, to be found in its own chunks by BM25:
`finemem data build --source=hotpotqa --chunk-tokens=300 --questions=2 --noise=200`.

Hardware there: 4 GPUs for the 7B, 500 steps. Not run by us: no such machine was at hand. The scores there are sums over
questions and of other texts (Wikipedia, by E5): ours are not to be compared with them.

Where we differ, or it does not say:

    algorithm    GRPO; there PPO with a value head for the 7B, and GRPO with 5 rollouts for the larger ones
    reward       the mean over the questions; there their sum
    answers      one a line, so that an answer may hold a semicolon; between semicolons they are read as well
    rows         a turn with the tokens of its context; there a whole episode under a mask, which did not mask
    the state    the thought; what else was said in a turn is gone
"""

from configs.neighbours import mem1


def get_config():
    cfg = mem1.get_config()
    cfg.name = "mem1_search"
    cfg.method.name = "search"
    cfg.method.turns = 6
    cfg.retrieval.k = 3
    cfg.retrieval.max_tokens = 1000
    return cfg
