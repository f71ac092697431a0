#!/usr/bin/env bash
#SBATCH --job-name=finemem
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=finemem-%j.log
# One training run over the GPU nodes of a SLURM job: one task per node, which takes all of the node's GPUs.
#
#   WORKDIR=/shared/runs/first sbatch --nodes=4 launch/slurm_run.sh -- --config=configs/finemem_qwen3_4b.py --config.answerer.url=http://answerer:8000/v1
#   WORKDIR=… bash launch/slurm_run.sh --dry-run -- …      prints the commands and runs none
#
# Submit it from the repository's folder, on a file system that all nodes share. The options above are defaults; those
# of `sbatch` win. Three minutes before its time is up, or when it is preempted, the job saves its state (exit code 75)
# and is queued again; so it is when a node is lost (76, or a task killed by a signal). What follows `--` goes to
# `finemem train`.
#
# Needed:    WORKDIR        folder of the run, on a file system that all nodes share
# Optional:  PYTHON         interpreter that has everything; without it .venv is made here, once, before the start
#            MAX_RESTARTS   20
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"

dry_run=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --) shift; break ;;
    *) echo "slurm_run.sh: unknown argument $1; options of the run follow --" >&2; exit 2 ;;
  esac
done
: "${WORKDIR:?folder of the run, on a file system that all nodes share}"
MAX_RESTARTS="${MAX_RESTARTS:-20}"
for number in MAX_RESTARTS SLURM_RESTART_COUNT; do
  [[ "${!number:-0}" =~ ^[0-9]{1,9}$ ]] || { echo "slurm_run.sh: $number=${!number} must be a whole number" >&2; exit 2; }
done
do_it() { if [ -n "$dry_run" ]; then printf '%q ' "$@"; echo; else "$@"; fi; }

python="${PYTHON:-.venv/bin/python}"
if [ -z "${PYTHON:-}" ]; then
  if [ -n "$dry_run" ]; then echo "source launch/environment.sh '[cuda]'"; else source launch/environment.sh "[cuda]"; fi
fi
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"

code=0
# Not --kill-on-bad-exit: the tasks end each other, with a line that says why, and save what can be saved.
do_it srun --kill-on-bad-exit=0 "$python" -m finemem_jax.main train "--workdir=$WORKDIR" "$@" || code=$?
[ -z "$dry_run" ] || { echo "scontrol requeue \"\$SLURM_JOB_ID\"    # on exit code 75, 76 or above 128"; exit 0; }

if [ "$code" -eq 75 ] || [ "$code" -eq 76 ] || { [ "$code" -gt 128 ] && [ "$code" -ne 130 ]; }; then
  restarts="${SLURM_RESTART_COUNT:-0}"
  if [ "$restarts" -lt "$MAX_RESTARTS" ]; then
    echo "slurm_run: ended ($code): restart $((restarts + 1)) of $MAX_RESTARTS, from the newest checkpoint in $WORKDIR" >&2
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "slurm_run: ended ($code) after $restarts restarts, the limit (MAX_RESTARTS)" >&2
  fi
fi
exit "$code"
