#!/usr/bin/env bash
# The test suite: installs into .venv and runs pytest on all cores.
#
#   bash launch/test.sh                 everything but the slow tests
#   bash launch/test.sh -m slow         the slow ones
#   bash launch/test.sh tests/env       any arguments of pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "[test]"
[ $# -gt 0 ] || set -- -m "not slow"
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
