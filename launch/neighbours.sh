#!/usr/bin/env bash
# The neighbours at the tiny size: each method from its own warm start, three seeds, equal budgets of sampled tokens, one
# table (accuracy, what it holds, writes and asks, time) in WORKDIR/sweep.md.
# Usage: launch/neighbours.sh [--dry-run | --warm-starts]     WORKDIR=runs/neighbours SEEDS=0,1,2 JOBS=1 TOKENS=1500000
# --warm-starts rebuilds the policies that they start from, WORKDIR/warm/METHOD/hf, which are the folders
# finemem_jax/assets/warm_start_METHOD. It goes on where it was stopped.
set -euo pipefail

workdir=${WORKDIR:-runs/neighbours}
methods=${METHODS:-finemem memagent personamem mem1 mem1_search memalpha}

run() {
  if [[ ${mode:-} == --dry-run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

mode=${1:-}
if [[ $mode == --warm-starts ]]; then
  for method in $methods; do
    [[ $method == finemem ]] && continue # the quickstart's: launch/warm_start.sh
    run finemem sft "--config=configs/neighbours/tiny_warm_start.py:$method" "--workdir=$workdir/warm/$method"
  done
  exit
fi
configs=""
for method in $methods; do configs+="${configs:+,}configs/neighbours/tiny.py:$method"; done
run finemem sweep "--configs=$configs" "--seeds=${SEEDS:-0,1,2}" "--jobs=${JOBS:-1}" "--workdir=$workdir/sweep" \
  "--config.train.budget_tokens=${TOKENS:-1500000}"
