#!/usr/bin/env bash
# On one host of a slice, called by tpu_run.sh: a run that outlives the ssh connection it was started from.
#
#   bash launch/worker.sh start RUN ARGUMENTS…   starts `finemem ARGUMENTS…`; its pid, log and exit code lie in RUN
#   bash launch/worker.sh status RUN             "running", "exited CODE", "killed" (no exit code left) or "absent"
#   bash launch/worker.sh stop RUN               SIGTERM to what `start` started, and to nothing else; SIGKILL later
#   bash launch/worker.sh follow RUN             its log from the beginning, until it ends
#
# PYTHON: an interpreter that has everything; without it .venv is made and the package installed into it.
# STOP_SECONDS: between SIGTERM, on which the run saves its state, and SIGKILL (default 60).
set -euo pipefail
action="${1:?start, status, stop or follow}"
run="${2:?folder of the run}"
shift 2

is_running() {  # a pid alone may belong to another process after a reboot
  local variable
  [ -s "$run/pid" ] || return 1
  while IFS= read -r -d '' variable; do
    [ "$variable" != "FINEMEM_RUN=$run" ] || return 0
  done 2>/dev/null < "/proc/$(cat "$run/pid")/environ"
  return 1
}

case "$action" in
  start)
    if is_running; then echo "$run is running already" >&2; exit 2; fi
    if [ -n "${PYTHON:-}" ]; then python="$PYTHON"; else
      source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "${EXTRAS-[tpu]}"
      python=".venv/bin/python"
    fi
    mkdir -p -- "$run"
    rm -f -- "$run/code" "$run/pid" "$run/up"
    [ ! -e "$run/log" ] || mv -- "$run/log" "$run/log.$(date +%s)"  # of the start before this one
    export FINEMEM_RUN="$run" JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/finemem_jax}"
    # A session of its own: neither the end of the connection nor a signal to it reaches the run. The trap keeps this
    # shell through a SIGTERM, which the run answers by saving its state.
    setsid nohup bash -c 'trap : TERM; : > "$FINEMEM_RUN/up"; "$@"; code=$?; echo $code > "$FINEMEM_RUN/code"; exit $code' \
      run "$python" -m finemem_jax.main "$@" > "$run/log" 2>&1 < /dev/null &
    pid=$!
    echo "$pid" > "$run/pid"
    # It is known by its environment, which cannot be read while one program becomes the next.
    until [ -e "$run/up" ] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    ;;
  status)
    # In this order: one that ends between the two has left its code.
    if is_running; then echo running
    elif [ -s "$run/code" ]; then echo "exited $(cat "$run/code")"
    elif [ -s "$run/pid" ]; then echo killed
    else echo absent; fi
    ;;
  stop)
    is_running || exit 0
    pid="$(cat "$run/pid")"
    kill -TERM -- "-$pid" 2>/dev/null || true
    for _ in $(seq "${STOP_SECONDS:-60}"); do is_running || exit 0; sleep 1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
    ;;
  follow)
    pid="$(cat "$run/pid" 2>/dev/null || echo 1)"
    exec tail -n +1 -F --pid="$pid" -- "$run/log" 2>/dev/null
    ;;
  *) echo "unknown action $action: start, status, stop or follow" >&2; exit 2 ;;
esac
