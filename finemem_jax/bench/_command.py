"""The command line of the benchmarks: one verb per file of this folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from finemem_jax import bench
from finemem_jax.config import plugins, resolve


def measure(words: Sequence[str]) -> dict[str, Any]:
    """Runs the benchmark that the words of a command line ask for: its name, then its options."""
    parser = argparse.ArgumentParser(prog="finemem bench", description=bench.__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")
    for name in plugins("finemem_jax.bench"):
        module = resolve("finemem_jax.bench", name)
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    return arguments.run(arguments)
