"""Corpora in the Memalpha format, built from raw datasets: `finemem data build`.

One file per source, which exports

    episodes(options: BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]

The folder is the registry: a new file is a new `--source`. Files whose name starts with "_" are shared parts.
"""

from finemem_jax.corpora._build import BuildReport, add_arguments, build
from finemem_jax.corpora._dialogue import wrap
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.env.chunking import keep, pack, split_text, token_counter

__all__ = [
    "BuildOptions",
    "BuildReport",
    "add_arguments",
    "build",
    "keep",
    "pack",
    "split_text",
    "token_counter",
    "wrap",
]

EXPORTS = ("episodes()",)
