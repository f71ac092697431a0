"""A real language model learns to take notes of real dialogue: SmolLM2-135M-Instruct on LoCoMo sessions.

    for split in train eval; do
      finemem data build --source=locomo --input=PATH/locomo --output=runs/data/locomo_$split.parquet --split=$split \
        --held-out-every=2 --layout=bare --tokenizer=M --line-tokens=64 --chunk-tokens=160 --chunks=8 --noise=1 \
        --answerable=spans --chunk-questions=0 --instances=0
      finemem data chunk-questions --corpus=runs/data/locomo_$split.parquet --from-evidence
    done
    finemem sft --config=configs/smollm2_locomo.py --config.model.path=M --workdir=runs/smollm2_locomo_sft
    finemem train --config=configs/smollm2_locomo.py --config.model.path=runs/smollm2_locomo_sft/hf \
      --workdir=runs/smollm2_locomo

M is the model's folder (docs/real_model.md says how to get one without a hub). Training and held-out instances share no
conversation. Eight chunks of three or four dated lines, three operations a chunk, a memory of eight items; the
questions are those that the frozen answerer can answer from the annotated turns. What the baselines score:
docs/results.md. Not measured: no training run has been made yet.
"""

from configs import smollm2


def get_config():
    cfg = smollm2.get_config()
    cfg.name = "smollm2_locomo"
    cfg.data.path = "runs/data/locomo_train.parquet"
    cfg.data.eval_path = "runs/data/locomo_eval.parquet"
    cfg.data.chunk_tokens = 160
    cfg.data.layout = "lines"
    cfg.memory.max_operations = 3
    cfg.memory.max_item_tokens = 72
    cfg.memory.max_items = 8
    cfg.memory.overflow = "evict_oldest"
    cfg.memory.view.max_items = 2
    cfg.prompt.max_completion_tokens = 224
    cfg.engine.cache_tokens = 640
    cfg.retrieval.k = 1
    cfg.answerer.name = "spans"
    cfg.rewards.chunk_questions = 2
    cfg.eval.episodes = 0
    return cfg
