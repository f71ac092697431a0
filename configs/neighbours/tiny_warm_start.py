"""The warm start of a method at the tiny size: the quickstart's layers, a tokenizer of its own, its demonstrations.

    finemem sft --config=configs/neighbours/tiny_warm_start.py:memagent --workdir=runs/neighbours/warm/memagent

A few minutes each on 2 CPU cores; `bash launch/neighbours.sh --warm-starts` makes all of them. The result, hf/, is the
folder finemem_jax/assets/warm_start_METHOD. One for each method, and not one for all: a run has one prompt and one
codec, each is under a megabyte, and none has to be made again when another method comes.
"""

from configs.neighbours import tiny


def get_config(method="memagent"):
    cfg = tiny.get_config(method)
    cfg.name = "tiny_warm_start"
    cfg.model.path = ""
    cfg.model.tokenizer = "method"
    cfg.model.layers_from = "embedded:warm_start"
    # More questions than a run asks, so that each memory is asked much; where they are seen, as many as there.
    cfg.data.diary.changed_questions = 3
    cfg.data.diary.fact_questions = 4
    cfg.data.diary.label_questions = 2
    cfg.rewards.question_share = 1 / 3 if cfg.method.sees_question else 1.0
    cfg.sft.stages = ("demonstrations", "demonstrations")
    cfg.sft.steps = (400, 1600)
    cfg.sft.lr = (3e-3, 2e-3)
    cfg.sft.answer_mix = 0.6
    cfg.sft.batch = 16
    cfg.sft.pool = 1024
    cfg.sft.permuted = 0.4
    cfg.sft.expert.update_changed = 0.8
    cfg.sft.save_dtype = "bfloat16"
    cfg.sft.eval_examples = 128
    cfg.optimizer.schedule = "cosine"
    cfg.optimizer.weight_decay = 0.01
    cfg.optimizer.b2 = 0.98
    cfg.train.microbatch_rows = 4
    return cfg
