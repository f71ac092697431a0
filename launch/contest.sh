#!/usr/bin/env bash
# The contest of credit rules: ten rows, five seeds, two tasks, each compared at equal sampled tokens and at equal answers.
# Usage: launch/contest.sh [--dry-run]      WORKDIR=runs/contest SEEDS=0,1,2,3,4 JOBS=1 TASKS="diary_long real_text"
# It goes on where it was stopped. real_text needs the files that the head of configs/real_text.py makes.
set -euo pipefail

workdir=${WORKDIR:-runs/contest}
seeds=${SEEDS:-0,1,2,3,4}
rows="csr_eara outcome_only csr csr_eara_per_step gain csr_gain leave_one_out shapley trunk curriculum"

for task in ${TASKS:-diary_long real_text}; do
  configs=""
  for row in $rows; do configs+="${configs:+,}configs/contest/$row.py:$task"; done
  warm="$workdir/$task/warm_start"
  warm_start=(finemem sft "--config=configs/$task.py" "--workdir=$warm")
  command=(finemem sweep "--configs=$configs" "--config.model.path=$warm/hf" "--seeds=$seeds" "--jobs=${JOBS:-1}"
    "--workdir=$workdir/$task"
    "--config.train.budget_tokens=${TOKENS:-300000}" "--config.train.budget_answers=${ANSWERS:-15000}")
  if [[ ${1:-} == --dry-run ]]; then
    printf '%q ' "${warm_start[@]}" && echo
    printf '%q ' "${command[@]}" && echo
  else
    [ -e "$warm/hf/config.json" ] || "${warm_start[@]}"
    "${command[@]}"
  fi
done
