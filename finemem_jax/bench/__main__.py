"""The command line of the benchmarks: one subcommand per file of this folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from finemem_jax import bench, exits
from finemem_jax.config import UserError, plugins, resolve
from finemem_jax.console import tell


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark and prints its JSON; 2 and one line on stderr for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m finemem_jax.bench", description=bench.__doc__)
    commands = parser.add_subparsers(required=True, metavar="benchmark")
    for name in plugins("finemem_jax.bench"):
        module = resolve("finemem_jax.bench", name)
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        tell(json.dumps(args.run(args), indent=2))
    except UserError as error:
        tell(f"error: {error}", file=sys.stderr)
        return exits.USER_ERROR
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
