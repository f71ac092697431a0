"""The registry: a plug-in is one file in its package's folder, and its name is the file's.

A user's plug-ins lie in a folder of their own, in subfolders named like the package's (`rewards/mine.py`). They come
with `--plugins=DIR`, or with an installed distribution that has an entry point of the group `finemem_jax.plugins`,
whose value is the package that holds those subfolders. Either way the subfolders become a part of the package's
folders, so that a user's file is found, named and imported like one of ours: `finemem_jax.rewards.mine`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import traceback
import types
from collections.abc import Iterable
from pathlib import Path

from finemem_jax.exits import UserError

PACKAGE = Path(__file__).parents[1]
GROUP = "finemem_jax.plugins"  # of entry points


def plugins(package: str) -> list[str]:
    """Names of the plug-in files in a package's folder, sorted."""
    _add_installed()
    folder = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))


def resolve(package: str, name: str) -> types.ModuleType:
    """The plug-in module `name` of `package` ("finemem_jax.rewards"). Raises UserError listing the files found, or
    saying what is wrong with the file: a package says in EXPORTS what each of its plug-ins has."""
    full = f"{package}.{name}"
    if full in _resolved and sys.modules.get(full) is _resolved[full]:
        return _resolved[full]
    found = plugins(package)
    if name not in found:
        raise UserError(unknown(name, found, f"name in {package.rpartition('.')[2]}/:"))
    spec = importlib.util.find_spec(full)
    if spec is None or spec.origin is None or PACKAGE in Path(spec.origin).parents:
        module = importlib.import_module(full)
    else:
        module = _import_users(spec.name, spec.origin)
    _check_exports(package, module)
    _resolved[full] = module
    return module


_resolved: dict[str, types.ModuleType] = {}  # by full name; turns ask for theirs again and again


def _check_exports(package: str, module: types.ModuleType) -> None:
    for export in getattr(importlib.import_module(package), "EXPORTS", ()):
        name = export.removesuffix("()")
        value = getattr(module, name, None)
        if value is None or (export.endswith("()") and not callable(value)):
            near = difflib.get_close_matches(name, vars(module), n=1)
            hint = f" (it has {near[0]})" if near else ""
            folder = package.rpartition(".")[2]
            raise UserError(f"plug-in {module.__file__} lacks {export}{hint}: every file in {folder}/ has it")


def _import_users(name: str, file: str) -> types.ModuleType:
    """A user's file; a mistake in it is said in one line, with its place."""
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else next(iter(lines), None)
        raise UserError(f"plug-in {file}, line {line}: {type(error).__name__}: {error}") from error


def source_of(module: types.ModuleType) -> bytes:
    """The text of a plug-in: what was computed by it is void when it changes."""
    return Path(str(module.__file__)).read_bytes()


def add_folder(folder: Path) -> None:
    """Makes the subfolders of `folder` a part of the package's folders of plug-ins. Raises UserError on a name that
    stands for nothing here or twice."""
    if not folder.is_dir():
        raise UserError(f"--plugins={folder}: no such folder")
    kinds = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.isidentifier())
    known = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    for kind in kinds:
        if kind.startswith("__"):
            continue
        if kind not in known:
            raise UserError(f"--plugins={folder}: " + unknown(kind, known, "folder of plug-ins"))
        package = importlib.import_module(f"finemem_jax.{kind}")
        own = str((folder / kind).resolve())
        if own in package.__path__:
            continue
        taken = {m.name for m in pkgutil.iter_modules(package.__path__)}
        for module in pkgutil.iter_modules([own]):
            if module.name in taken:
                raise UserError(
                    f"{own}/{module.name}.py: there is a {kind}/{module.name}.py already, name it otherwise"
                )
        package.__path__.append(own)
        importlib.invalidate_caches()


@functools.cache
def _add_installed() -> None:
    """The folders of installed distributions; looked up once, and without importing anything of theirs."""
    for point in importlib.metadata.entry_points(group=GROUP):
        spec = importlib.util.find_spec(point.value)
        for folder in (spec and spec.submodule_search_locations) or ():
            add_folder(Path(folder))


def unknown(given: str, known: Iterable[str], what: str) -> str:
    """One line for an unknown name: the nearest known one, or the list when none is near."""
    return f"unknown {what} {given}: {nearest(given, known)}"


def nearest(given: str, known: Iterable[str]) -> str:
    """What was probably meant by an unknown name, or the list when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
