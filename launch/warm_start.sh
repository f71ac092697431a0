#!/usr/bin/env bash
# Rebuilds the tiny warm start from nothing: copying, then three rounds of imitating the imperfect expert.
# The result, RUNS/polishing/hf, is what lies in finemem_jax/assets/warm_start.
#
#   bash launch/warm_start.sh [RUNS]      default runs/warm_start; about 20 minutes on 2 CPU cores
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" ""
runs="${1:-runs/warm_start}"
sft() { .venv/bin/finemem sft --config=configs/warm_start.py --workdir="$runs/$1" "${@:2}"; }
imitate() { sft "$1" --config.model.path="$runs/$2/hf" "--config.sft.stages=('expert',)" "${@:3}"; }
sft copying
imitate choosing copying "--config.sft.lr=(2e-3,)" "--config.sft.steps=(1500,)" --config.sft.update_mix=0.3
imitate imitating choosing "--config.sft.lr=(2e-3,)" "--config.sft.steps=(3500,)" --config.sft.update_mix=0.2 \
  --config.sft.permuted=0.25 --config.sft.copy_mix=0.1 --config.sft.save_dtype=bfloat16
imitate polishing imitating "--config.sft.lr=(1e-3,)" "--config.sft.steps=(2500,)" --config.sft.update_mix=0.15 \
  --config.sft.permuted=0.1 --config.sft.copy_mix=0.15 --config.sft.expert.update_wrong=0.1 \
  --config.sft.save_dtype=bfloat16
echo "the warm start is $runs/polishing/hf"
