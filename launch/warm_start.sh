#!/usr/bin/env bash
# Rebuilds the tiny warm start from nothing: copying, then two rounds of imitating the imperfect expert.
# The result, RUNS/imitating/hf, is what lies in finemem_jax/assets/warm_start.
#
#   bash launch/warm_start.sh [RUNS]      default runs/warm_start; about 15 minutes on 2 CPU cores
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" ""
runs="${1:-runs/warm_start}"
sft() { .venv/bin/finemem sft --config=configs/warm_start.py --workdir="$runs/$1" "${@:2}"; }
expert=("--config.sft.stages=('expert',)" "--config.sft.lr=(2e-3,)")
sft copying
sft choosing --config.model.path="$runs/copying/hf" "${expert[@]}" "--config.sft.steps=(1500,)" \
  --config.sft.update_mix=0.3
sft imitating --config.model.path="$runs/choosing/hf" "${expert[@]}" "--config.sft.steps=(3500,)" \
  --config.sft.permuted=0.25 --config.sft.copy_mix=0.1 --config.sft.update_mix=0.2 --config.sft.save_dtype=bfloat16
echo "the warm start is $runs/imitating/hf"
