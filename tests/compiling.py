"""How the tests have XLA compile: what is run once, on a model this small, is not worth an optimised program."""

from __future__ import annotations

import importlib.util
import mmap
from pathlib import Path

# LLVM's passes and the emitters of fusions are most of the time that a compilation takes.
_FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")


def quick_compilation() -> list[str]:
    """Those of the flags that the installed XLA knows: one that it does not know ends the process."""
    (folder,) = importlib.util.find_spec("jaxlib").submodule_search_locations
    known = []
    for library in Path(folder).glob("libjax_common.*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            known += [flag for flag in _FLAGS if code.find(flag.strip("-").partition("=")[0].encode()) >= 0]
    return known
