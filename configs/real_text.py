"""The quickstart's job on real text: CLINC150 utterances, train and held-out ones disjoint.

    for split in train eval; do
      finemem data build --source=clinc150 --input=PATH/clinc150 --output=runs/data/clinc150_$split.parquet \
        --split=$split --layout=marked --chunks=4 --utterances=3 --noise=3 --labels-per-instance=4 \
        --questions=8 --chunk-questions=3 --instances=400
    done
    finemem sft --config=configs/real_text.py --workdir=runs/real_text_sft
    finemem train --config=configs/real_text.py --config.model.path=runs/real_text_sft/hf

2 CPU cores. The diary's warm start has no words for such text, so the job has a warm start of its own: its layers, and
embeddings for a tokenizer built from the training utterances. Figures: docs/results.md.
"""

from configs import quickstart


def get_config():
    cfg = quickstart.get_config()
    cfg.name = "real_text"
    cfg.model.path = ""
    cfg.model.tokenizer = "corpus"
    cfg.model.layers_from = "embedded:warm_start"
    cfg.data.name = "memalpha"
    cfg.data.path = "runs/data/clinc150_train.parquet"
    cfg.data.eval_path = "runs/data/clinc150_eval.parquet"
    cfg.memory.max_operations = 3
    cfg.memory.max_item_tokens = 48
    cfg.memory.view.max_items = 4
    cfg.prompt.max_prompt_tokens = 336
    cfg.prompt.max_completion_tokens = 112
    cfg.engine.cache_tokens = 448
    cfg.sft.stages = ("copy_random", "copy_shuffled", "expert")
    cfg.sft.steps = (150, 600, 2200)
    cfg.sft.lr = (2e-3, 2e-3, 2e-3)
    cfg.sft.batch = 16
    cfg.sft.permuted = 0.6
    cfg.sft.pool = 400
    cfg.optimizer.b2 = 0.98
    cfg.optimizer.lr = 3e-4  # the quickstart's 1e-3 forgets to copy words that training never sees
    cfg.train.steps = 70
    cfg.train.eval_every = 35
    cfg.train.checkpoint_every = 35
    return cfg
