"""The diary on which credit matters: 16 days, and a memory that holds a fifth of what is read.

    finemem sft --config=configs/diary_long.py --workdir=runs/diary_long_sft
    finemem train --config=configs/diary_long.py --config.model.path=runs/diary_long_sft/hf

The quickstart's warm start knows shorter days and memories, and half of what it writes here does not apply; the first
command goes on from it.

2 CPU cores; a step writes 256 turns, as many as one of the quickstart's, with longer prompts. What makes it hard:

    silent facts     no question about their day asks for them, 4 of 10 final ones do: chunk_qa is blind to them
    passing facts    questions about their day ask for them, no final one does: chunk_qa pays for keeping them
    repeats          the same fact as two items, which are retrieved together
    namesakes        two people have the same attribute: their items are retrieved together
    forgets          what is to be forgotten must not be the answer
    the budget       160 tokens and 32 items of the 700 tokens or so that are read: old items have to go

Evidence is paid per step: with the paper's scale the compression term alone would be worth as much, over 16 steps, as
most of the answers.
"""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "diary_long"
    cfg.data.diary.chunks = 16
    cfg.data.diary.facts = 2
    cfg.data.diary.noise = 1
    cfg.data.diary.silent = 1
    cfg.data.diary.passing = 1
    cfg.data.diary.repeats = 1
    cfg.data.diary.forgets = 3
    cfg.data.diary.namesakes = 2
    cfg.data.diary.changed_questions = 2
    cfg.data.diary.fact_questions = 2
    cfg.data.diary.label_questions = 1
    cfg.data.diary.silent_questions = 4
    cfg.data.diary.forgotten_questions = 1
    cfg.memory.max_operations = 5
    cfg.memory.max_items = 32
    cfg.memory.max_tokens = 160
    cfg.memory.view.max_items = 32
    cfg.prompt.max_prompt_tokens = 384
    cfg.prompt.max_completion_tokens = 80
    cfg.engine.cache_tokens = 464
    cfg.rewards.evidence.scale = "per_step"
    cfg.sft.steps = (3000,)
    cfg.sft.lr = (2e-3,)
    cfg.sft.batch = 16
    cfg.sft.pool = 2048
    cfg.sft.permuted = 0.25
    cfg.sft.copy_mix = 0.2
    cfg.sft.update_mix = 0.2
    cfg.train.episodes = 4
    cfg.train.group_size = 4
    cfg.train.eval_every = 0
    cfg.eval.episodes = 32
    return cfg
