"""The registry: a plug-in is one file in its package's folder, and its name is the file's."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import types
from collections.abc import Iterable

from finemem_jax.exits import UserError


def plugins(package: str) -> list[str]:
    """Names of the plug-in files in a package's folder, sorted."""
    folder = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))


def resolve(package: str, name: str) -> types.ModuleType:
    """The plug-in module `name` of `package` ("finemem_jax.rewards"). Raises UserError listing the files found."""
    found = plugins(package)
    if name not in found:
        raise UserError(unknown(name, found, f"name in {package.rpartition('.')[2]}/:"))
    return importlib.import_module(f"{package}.{name}")


def unknown(given: str, known: Iterable[str], what: str) -> str:
    """One line for an unknown name: the nearest known one, or the list when none is near."""
    return f"unknown {what} {given}: {nearest(given, known)}"


def nearest(given: str, known: Iterable[str]) -> str:
    """What was probably meant by an unknown name, or the list when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
