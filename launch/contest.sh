#!/usr/bin/env bash
# The contest of credit rules: ten rows, five seeds, two tasks, at equal budgets of sampled tokens and of answers.
# Usage: launch/contest.sh [--dry-run]      WORKDIR=runs/contest SEEDS=0,1,2,3,4 JOBS=1 TASKS="diary_long real_text"
# It goes on where it was stopped. real_text needs the files that the head of configs/real_text.py makes.
set -euo pipefail

workdir=${WORKDIR:-runs/contest}
seeds=${SEEDS:-0,1,2,3,4}
rows="csr_eara outcome_only csr csr_eara_per_step gain csr_gain leave_one_out shapley trunk curriculum"

for task in ${TASKS:-diary_long real_text}; do
  configs=""
  for row in $rows; do configs+="${configs:+,}configs/contest/$row.py:$task"; done
  for budget in "budget_tokens=${TOKENS:-1000000}" "budget_answers=${ANSWERS:-70000}"; do
    other=budget_answers
    [[ $budget == budget_answers=* ]] && other=budget_tokens
    command=(finemem sweep "--configs=$configs" "--seeds=$seeds" "--jobs=${JOBS:-1}"
      "--workdir=$workdir/$task/${budget%%=*}" "--config.train.$budget" "--config.train.$other=0")
    if [[ ${1:-} == --dry-run ]]; then
      printf '%q ' "${command[@]}"
      echo
    else
      "${command[@]}"
    fi
  done
done
