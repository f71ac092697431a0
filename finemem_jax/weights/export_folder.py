"""The folder that an export writes: it appears whole or not at all, and replaces only what an export wrote.

MARKER lies in it and names every file that the export wrote. A folder without it, or with anything that it does not
name, is somebody's own and is never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from finemem_jax.config import UserError

MARKER = "finemem_export.json"
_REPLACES = "and an export replaces the whole folder: choose another place, or move it away"


def claim_place(path: str | os.PathLike) -> Path:
    """Where an export to `path` will lie. To be called before the work that ends in it.

    Raises UserError, one line, when something else than an export is there. What a killed export left beside it is
    removed; an export that it had moved away already comes back."""
    path = Path(path).resolve()  # of a link the place that it leads to: a rename would replace the link
    if jax.process_index() == 0:
        _clean(path)
    if not path.is_dir():
        if path.exists():
            raise UserError(f"{path} is a file; choose another place to export to")
        return path
    found = _files(path)
    if any(path.iterdir()) and MARKER not in found:
        raise UserError(f"{path} was not written by an export, {_REPLACES}")
    foreign = sorted(found - _marked(path))
    if foreign:
        raise UserError(f"{path} holds more than an export ({foreign[0]}), {_REPLACES}")
    return path


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path | None]:
    """A folder to fill, that becomes `path` when the block ends well; None in processes that do not write."""
    path = claim_place(path)
    if jax.process_index() != 0:
        yield None
    else:
        partial = _beside(path, "partial")
        partial.mkdir(parents=True)
        with _locked(partial):
            try:
                yield partial
                files = sorted([*_files(partial), MARKER])
                (partial / MARKER).write_text(
                    json.dumps({"written_by": "finemem_jax", "files": files}, indent=1) + "\n"
                )
                _replace(partial, path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {path.name}")


def _replace(partial: Path, path: Path) -> None:
    old = _beside(path, "old")
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}")


def _files(folder: Path) -> set[str]:
    """All files and links below the folder, relative to it."""
    return {
        os.path.relpath(os.path.join(where, name), folder)
        for where, folders, names in os.walk(folder)
        for name in [*names, *(f for f in folders if os.path.islink(os.path.join(where, f)))]
    }


def _marked(folder: Path) -> set[str]:
    """The files that the folder's marker names; none when it is not one."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
        return {str(name) for name in marker["files"]} if marker["written_by"] == "finemem_jax" else set()
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _clean(path: Path) -> None:
    """Brings back or removes what exports that were killed left beside `path`; does nothing while one is at work."""
    if not path.parent.is_dir():
        return
    left = {
        kind: [p for p in sorted(path.parent.iterdir()) if _is_left(p, f".{path.name}.{kind}-")]
        for kind in ("partial", "old")
    }
    with contextlib.ExitStack() as locks:
        if not all(locks.enter_context(_locked(partial)) for partial in left["partial"]):
            return
        for old in left["old"]:
            if not path.exists() and _marked(old):
                old.rename(path)  # killed between the two renames
        for folder in (*left["partial"], *left["old"]):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(path: Path, start: str) -> bool:
    return path.name.startswith(start) and path.name[len(start) :].isdecimal() and path.is_dir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process has the folder's lock, which goes with the process; False where there are no locks."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        has_lock = True
    except OSError:
        has_lock = False
    try:
        yield has_lock
    finally:
        os.close(handle)
