"""The neighbours at the size of the quickstart: a tiny policy, each from its own warm start, on the diary.

    finemem train --config=configs/neighbours/tiny.py:memagent
    bash launch/neighbours.sh       # all of METHODS, three seeds, one table

2 CPU cores. The same days and the same three questions for all; what differs is the method: its memory, its prompt in
its own words, its format, who answers, its reward and its credit. A file in this folder says what each is about. What
the small size leaves out:

    memalpha      no judge, so no reward for the content of entries; the answerer is the extractive one
    personamem    the days of the diary and free answers in the place of chats and four options
    finemem       the quickstart's own warm start and prompt; questions about each day, which no other method asks
"""

from configs import quickstart
from finemem_jax import config

METHODS = ("finemem", "memagent", "personamem", "mem1", "mem1_search", "memalpha")


def get_config(method="memagent"):
    if method not in METHODS:
        raise config.UserError(f"configs/neighbours/tiny.py:{method}: the methods are {', '.join(METHODS)}")
    cfg = quickstart.get_config()
    cfg.name = "tiny"
    cfg.data.diary.changed_questions = 1
    cfg.data.diary.fact_questions = 1
    cfg.data.diary.label_questions = 1
    cfg.rewards.question_share = 1.0
    cfg.train.budget_tokens = 1_500_000
    cfg.train.steps = 10_000  # the budget ends the run
    cfg.train.eval_every = 0
    cfg.eval.measures = (*cfg.eval.measures, "effort")
    cfg.optimizer.schedule = "constant"
    cfg.optimizer.lr = 5e-4
    if method == "finemem":
        return cfg
    cfg.model.path = f"embedded:warm_start_{method}"
    cfg.rewards.weights = {name: 0.0 for name in cfg.rewards.weights} | {"outcome": 1.0}
    cfg.advantage.credit = "trajectory"
    cfg.eval.baselines = ("no_memory", "store_all", "oracle")
    cfg.prompt.max_completion_tokens = 112
    cfg.prompt.max_prompt_tokens = 352
    cfg.engine.cache_tokens = 464
    if method == "memalpha":
        return _memalpha(cfg)
    cfg.memory.name = "overwrite"
    cfg.memory.max_tokens = 96
    cfg.method.answers = "policy"
    cfg.method.answer_tokens = 16
    cfg.method.sees_question = method != "personamem"
    cfg.prompt.name = {"memagent": "memagent", "personamem": "persona"}.get(method, "mem1")
    cfg.prompt.codec = "think" if method.startswith("mem1") else "raw"
    if method == "memagent":
        cfg.advantage.std = "none"
    if method == "mem1_search":
        cfg.method.name = "search"
        cfg.method.turns = 5
        cfg.retrieval.k = 2
    return cfg


def _memalpha(cfg):
    cfg.memory.name = "layered"
    cfg.memory.view.per_kind = 8
    cfg.memory.max_item_tokens = 32
    cfg.prompt.name = "memalpha"
    cfg.prompt.codec = "function_args"
    cfg.retrieval.per_kind = 3
    cfg.rewards.weights.format = 1.0
    cfg.rewards.weights.compression = 0.05
    cfg.advantage.credit = "instance"
    return cfg
