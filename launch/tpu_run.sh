#!/usr/bin/env bash
# One training run over all hosts of a TPU VM slice, restarted when hosts vanish.
#
#   TPU=my-slice ZONE=us-east5-a WORKDIR=/mnt/shared/runs/first bash launch/tpu_run.sh -- --config=configs/finemem_qwen3_4b.py --config.answerer.url=http://answerer:8000/v1
#   … bash launch/tpu_run.sh --dry-run -- …      prints every command and runs none
#
# Ships one git commit to every worker, makes the environment there, starts `finemem train` on all hosts, follows
# worker 0's log, and starts again when the run ends with exit code 75 (preempted, saved), 76 (a peer was lost) or a
# worker was killed: the run resumes at its newest checkpoint. What follows `--` goes to `finemem train`. Ctrl-C or
# SIGTERM stops the run on the workers; nothing else there is touched.
#
# Needed:    TPU, ZONE      the slice
#            WORKDIR        folder of the run, on a file system that all workers share (NFS, gcsfuse, …)
# Optional:  PROJECT        default: gcloud's own
#            COMMIT         what is shipped (HEAD); uncommitted changes are not
#            SETUP          command run on every worker before the start, e.g. one that mounts WORKDIR
#            CREATE         command that makes the slice again after it was preempted, e.g.
#                           "gcloud compute tpus tpu-vm create my-slice --zone=… --accelerator-type=… --version=… --spot";
#                           the preempted one is deleted first. Without it the script waits for the slice to be READY.
#            PYTHON         interpreter on the workers that has everything; nothing is installed then
#            MAX_RESTARTS   20
#            POLL_SECONDS   15, between two looks at the workers
# Exit code: that of the run (0 done, 2 a mistake in what was given, 3 stopped by an alarm, …; see docs/reliability.md).
set -euo pipefail
LC_ALL=C  # of this shell: letters are ASCII's, and what it quotes for the workers' shells they read in any locale
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --) shift; break ;;
    *) echo "tpu_run.sh: unknown argument $1; options of the run follow --" >&2; exit 2 ;;
  esac
done
: "${TPU:?name of the TPU slice}" "${ZONE:?its zone}" "${WORKDIR:?folder of the run, on a file system all workers share}"
COMMIT="$(git rev-parse --verify "${COMMIT:-HEAD}^{commit}")"
MAX_RESTARTS="${MAX_RESTARTS:-20}" POLL_SECONDS="${POLL_SECONDS:-15}"
for number in MAX_RESTARTS POLL_SECONDS; do
  [[ "${!number}" =~ ^[0-9]{1,9}$ ]] || { echo "tpu_run.sh: $number=${!number} must be a whole number" >&2; exit 2; }
done
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
# A folder's name may hold anything; what becomes part of a path in the workers' shells holds none of it.
name="${WORKDIR%"${WORKDIR##*[!/]}"}" name="${name##*/}" name="${name//[^[:alnum:]._-]/-}"
id="${name:0:60}-$(date +%Y%m%d-%H%M%S)-$$"
code="finemem_jax/code" run="finemem_jax/runs/$id"  # in the home folder of each worker
archive="$(mktemp -d)/finemem_jax-${COMMIT:0:12}.tar.gz"
END_SECONDS=90  # a run whose peer is gone ends within a minute

say() { echo "tpu_run: $*" >&2; }
do_it() { if [ -n "$dry_run" ]; then printf '%q ' "$@"; echo; else "$@"; fi; }
on() {  # on WORKERS COMMAND: a shell command on one worker, or on all
  do_it gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --worker="$1" --ssh-flag=-oConnectTimeout=20 --command="$2"
}
worker() {  # worker WORKERS ACTION ARGUMENTS…: launch/worker.sh there
  local workers="$1" action="$2" arguments=""
  shift 2
  [ $# -eq 0 ] || arguments="$(printf ' %q' "$@")"
  on "$workers" "cd ~/$code && ${PYTHON:+PYTHON=$(printf %q "$PYTHON") }bash launch/worker.sh $action ~/$run$arguments"
}

prepare() {
  do_it git archive --format=tar.gz --output="$archive" "$COMMIT"
  do_it gcloud compute tpus tpu-vm scp "$archive" "$TPU:finemem_jax.tar.gz" "${where[@]}" --worker=all
  # .venv stays: the package is installed from this folder, and again only when its dependencies change.
  on all "mkdir -p ~/$code && cd ~/$code && find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} + &&\
 tar xzf ~/finemem_jax.tar.gz${SETUP:+ && { $SETUP; \}}"
  [ -n "${PYTHON:-}" ] || on all "cd ~/$code && source launch/environment.sh '[tpu]'"
}

state_of_slice() { gcloud compute tpus tpu-vm describe "$TPU" "${where[@]}" --format='value(state)' 2>/dev/null || true; }

wait_until_ready() {
  local state
  while state="$(state_of_slice)" && [ "$state" != READY ]; do
    say "the slice is ${state:-not there}"
    if [ -n "${CREATE:-}" ] && [[ "$state" =~ ^(PREEMPTED|TERMINATED|STOPPED|)$ ]]; then
      [ -z "$state" ] || gcloud compute tpus tpu-vm delete "$TPU" "${where[@]}" --quiet || true
      bash -c "$CREATE" || say "the slice could not be made; trying again"
    fi
    sleep "$POLL_SECONDS"
  done
}

states_of_workers() {  # a line per worker, among whatever else gcloud prints
  local said
  said="$(worker all status < /dev/null 2>/dev/null)" || return 1
  grep -E '^(running|killed|absent|exited [0-9]+)$' <<< "$said"
}

follower=""
stop() {  # ends what this script started, here and on the workers
  [ -z "$follower" ] || kill "$follower" 2>/dev/null || true
  follower=""
  [ -n "$dry_run" ] || worker all stop >/dev/null 2>&1 || true
}
finish() { stop; rm -rf "$(dirname "$archive")"; }
trap finish EXIT
trap 'say "stopping the run"; exit 130' INT
trap 'say "stopping the run"; exit 143' TERM

attempt() {  # one start of the run; sets `ended` to how it ended: an exit code, or "lost"
  local states="" failures=0 since=""
  worker all start train "--workdir=$WORKDIR" "$@" || { ended=lost; return; }
  if [ -n "$dry_run" ]; then worker 0 follow; worker all status; worker all stop; ended=0; return; fi
  worker 0 follow < /dev/null &
  follower=$!
  while true; do
    sleep "$POLL_SECONDS"
    if ! states="$(states_of_workers)"; then
      # Twice may be the network; a host that went down stays away, and the others end by themselves.
      failures=$((failures + 1))
      [ "$failures" -lt 3 ] || { ended=lost; return; }
      continue
    fi
    failures=0
    if ! grep -qv '^running$' <<< "$states"; then since=""; continue; fi
    [ -n "$since" ] || { since=$SECONDS; say "workers: $(sort <<< "$states" | uniq -c | xargs)"; }
    if ! grep -q '^running$' <<< "$states" || [ $((SECONDS - since)) -gt "$END_SECONDS" ]; then
      wait "$follower" 2>/dev/null || true
      judge "$states"
      return
    fi
  done
}

judge() {  # a code that no restart mends decides; otherwise the run was lost
  local codes code
  codes="$(sed -n 's/^exited //p' <<< "$1" | sort -n | uniq)"
  ended=lost
  [ "$codes" != 0 ] || grep -qv '^exited' <<< "$1" || ended=0
  for code in $codes; do
    case "$code" in
      0) ;;
      75 | 76) [ "$ended" != lost ] || ended=$code ;;
      130) ended=130; return ;;  # somebody pressed Ctrl-C
      *) [ "$code" -gt 128 ] || { ended=$code; return; } ;;  # above 128: killed by a signal
    esac
  done
}

restarts=0 ended=""
if [ -z "$dry_run" ]; then wait_until_ready; fi
prepare
while true; do
  attempt "$@"
  case "$ended" in
    75 | 76 | lost) ;;
    *) break ;;
  esac
  stop
  if [ "$restarts" -ge "$MAX_RESTARTS" ]; then
    say "ended ($ended) after $restarts restarts, the limit (MAX_RESTARTS)"
    [ "$ended" != lost ] || ended=76
    break
  fi
  restarts=$((restarts + 1))
  say "ended ($ended): restart $restarts of $MAX_RESTARTS, from the newest checkpoint in $WORKDIR"
  wait_until_ready
  # A slice that was made again has nothing on it.
  if ! states="$(states_of_workers)" || grep -q '^absent$' <<< "$states"; then prepare; fi
done
[ -n "$dry_run" ] || say "the run ended with exit code $ended"
exit "$ended"
