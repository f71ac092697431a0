"""The job of configs/smollm2.py for half an hour of one GPU: all parameters, bfloat16, larger groups, longer.

    bash launch/real_model.sh PATH/clinc150 builds data and model; with the model's folder at M:

    finemem sft --config=configs/smollm2_gpu.py --config.model.path=M --workdir=runs/smollm2_gpu_sft
    finemem train --config=configs/smollm2_gpu.py --config.model.path=runs/smollm2_gpu_sft/hf --workdir=runs/smollm2_gpu

All parameters are trained, so the reference would cost a second copy: there is none (loss.kl_coef = 0). Not measured:
no run on a GPU has been made yet.
"""

from configs import smollm2


def get_config():
    cfg = smollm2.get_config()
    cfg.name = "smollm2_gpu"
    cfg.model.dtype = "bfloat16"
    cfg.model.lora.rank = 0
    cfg.engine.slots = 256
    cfg.train.episodes = 32
    cfg.train.group_size = 8
    cfg.train.steps = 100
    cfg.train.mini_batches = 4
    cfg.train.microbatch_rows = 32
    cfg.train.share_prefixes = False  # the GPU's attention reads whole sequences
    cfg.train.eval_every = 25
    cfg.train.checkpoint_every = 25
    cfg.eval.episodes = 100
    cfg.optimizer.lr = 5e-6
    cfg.sft.steps = (60,)
    cfg.sft.lr = (5e-5,)
    return cfg
