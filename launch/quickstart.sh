#!/usr/bin/env bash
# One command, a laptop, a memory manager that learns: installs into .venv and trains on the embedded diary task.
#
#   bash launch/quickstart.sh                                    a few minutes on 2 CPU cores, no download of data
#   bash launch/quickstart.sh --config.seed=1 --workdir=runs/s1  any option of `finemem train`
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" ""
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
# Level 1 halves the time that compiling for the CPU takes; the code it makes is as fast on a model this small.
export XLA_FLAGS="--xla_backend_optimization_level=1 ${XLA_FLAGS:-}"
# One device is enough for it, however many there are.
exec .venv/bin/finemem train --config=configs/quickstart.py --config.mesh.data=1 "$@"
