# Sourced by the launch scripts: finds a Python, makes .venv, installs the package once.
# usage: source launch/environment.sh EXTRAS     (e.g. "" or "[test]")

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
extras="${1:-}"

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(not sys.version_info >= (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "no Python 3.11 or newer found: install one, or name it with PYTHON=/path/to/python" >&2
  return 2
}

if [ ! -x .venv/bin/python ]; then
  python="$(find_python)" || exit 2
  "$python" -m venv .venv
fi
# The stamp names what was installed from: the same files install nothing a second time.
stamp=".venv/installed-$(cat setup.cfg pyproject.toml <(echo "$extras") | sha256sum | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  echo "installing finemem_jax$extras into .venv (once)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras"
  touch "$stamp"
fi
