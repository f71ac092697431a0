"""A real language model learns to manage memory: SmolLM2-135M-Instruct on CLINC150 utterances.

    bash launch/real_model.sh          # all of it: model, data, warm start, GRPO, evaluation, report

or by hand, with the model's folder at M (docs/real_model.md says how to get one without a hub):

    for split in train eval; do
      finemem data build --source=clinc150 --input=PATH/clinc150 --output=runs/data/clinc150_$split.parquet \
        --split=$split --layout=marked --chunks=4 --utterances=3 --noise=3 --labels-per-instance=4 \
        --questions=8 --chunk-questions=3 --instances=400
    done
    finemem sft --config=configs/smollm2.py --config.model.path=M --workdir=runs/smollm2_sft
    finemem train --config=configs/smollm2.py --config.model.path=runs/smollm2_sft/hf --workdir=runs/smollm2

Two CPU cores, 5 GB of memory; adapters are trained (LoRA), so the reference costs no second copy. The job is that of
configs/real_text.py: four chunks of six lines, three operations a chunk, eight questions at the end. Figures:
docs/results.md.
"""

from finemem_jax import config


def get_config():
    cfg = config.default()
    cfg.name = "smollm2"
    cfg.model.path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    cfg.model.dtype = "float32"
    cfg.model.lora.rank = 32
    cfg.model.lora.alpha = 64.0
    cfg.model.lora.targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    cfg.data.name = "memalpha"
    cfg.data.path = "runs/data/clinc150_train.parquet"
    cfg.data.eval_path = "runs/data/clinc150_eval.parquet"
    cfg.memory.max_operations = 3
    cfg.memory.max_item_tokens = 48
    cfg.memory.view.max_items = 4
    cfg.prompt.name = "short"
    cfg.prompt.codec = "lines"
    cfg.prompt.max_prompt_tokens = 416
    cfg.prompt.max_completion_tokens = 96
    cfg.engine.cache_tokens = 512
    cfg.engine.slots = 32
    cfg.retrieval.k = 3
    cfg.answerer.name = "extractive"
    cfg.rewards.chunk_questions = 3
    cfg.rewards.question_share = 1.0
    cfg.train.episodes = 4
    cfg.train.group_size = 6
    cfg.train.steps = 40
    cfg.train.microbatch_rows = 2
    cfg.train.share_prefixes = True
    cfg.train.checkpoint_every = 5
    cfg.train.eval_every = 20
    cfg.train.log_rollouts = 1
    cfg.eval.episodes = 24
    cfg.loss.kl_coef = 0.0
    cfg.optimizer.lr = 1e-4
    cfg.optimizer.warmup = 0.1
    cfg.optimizer.weight_decay = 0.0
    cfg.sft.steps = (40,)
    cfg.sft.lr = (5e-4,)
    cfg.sft.batch = 16
    cfg.sft.pool = 400
    cfg.sft.eval_examples = 48
    cfg.sft.checkpoint_every = 5
    return cfg
