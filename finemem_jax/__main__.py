"""`finemem` and `python -m finemem_jax`: the command line, with Ctrl-C taken care of before anything is imported."""

from __future__ import annotations

import sys

from finemem_jax.interrupts import end_at_once


def run() -> int:
    end_at_once()
    from finemem_jax.main import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
