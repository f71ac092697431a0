"""The folder of a run: it belongs to one config and to one process at a time."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import functools
import hashlib
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finemem_jax import __version__, config
from finemem_jax.config import Config, UserError
from finemem_jax.console import tell
from finemem_jax.files import JsonLines, parse_line, write_atomically

CONFIG = "config.json"
CONFIG_DIFF = "config_diff.txt"
CONFIG_CHANGES = "config_changes.jsonl"
LOCK = ".lock"
NOTE_BYTES = 200  # of the lock file, which says who holds it
COMMAND = "command.txt"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the folder's lock. Raises UserError, naming the holder, when another process has it.

    The lock is the kernel's, on the open file: it goes with the process, however that ends."""
    workdir.mkdir(parents=True, exist_ok=True)
    with _opened(workdir / LOCK, os.O_RDWR | os.O_CREAT) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir} is in use by another run ({_note(file)}): wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            tell(f"warning: {workdir} cannot be locked ({error.strerror}); start one run in it only", file=sys.stderr)
        else:
            now = datetime.datetime.now().isoformat(timespec="seconds")
            note = f"process {os.getpid()} on {socket.gethostname()} since {now}"
            with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
                os.pwrite(file, note.encode()[:NOTE_BYTES].ljust(NOTE_BYTES), 0)
        yield


def holder(workdir: Path) -> str:
    """Who holds the folder's lock: "process 12 on …"; empty where nobody does, or where there are no locks."""
    try:
        with _opened(workdir / LOCK, os.O_RDONLY) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _note(file)
    except (OSError, UserError):
        pass
    return ""


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A lock file. Raises UserError on what is none of ours: a link, whose target would be written to, or a file with
    something in it."""
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a link, and a lock must be a file of its own: remove it") from None
    try:
        found = os.fstat(file)
        held = os.pread(file, NOTE_BYTES, 0) if stat.S_ISREG(found.st_mode) else None
        is_file = held is not None and found.st_size <= NOTE_BYTES and found.st_nlink == 1
        if not is_file or (held and held.strip() and not held.startswith(b"process ")):
            raise UserError(f"{path} is not the lock of a run, and its name is needed for one: move it away")
        yield file
    finally:
        os.close(file)


def _note(file: int) -> str:
    return os.pread(file, NOTE_BYTES, 0).decode("utf-8", "replace").strip() or "unknown"


def claim(cfg: Config, workdir: Path, command: str = "train", *, accept_change: bool = False) -> list[str]:
    """The folder is this config's from now on; returns what changed against the run that it holds.

    Raises UserError with the difference when it holds a run with another config, unless the change is accepted; and
    when it holds something else, see `claim_kind`.
    """
    claim_kind(workdir, command)
    changed = changes(workdir, cfg)
    if changed and not accept_change:
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(changed)}): choose another --workdir, or go on "
            "with the new config with --accept-config-change"
        )
    return changed


def claim_kind(workdir: Path, command: str) -> None:
    """Raises UserError when the folder holds the run of another command. Commands other than `train` start in an empty
    folder, so that nothing of somebody's is replaced."""
    held, found = kind(workdir), _content(workdir)
    if held and held != command:
        raise UserError(f"{workdir} holds a run of `finemem {held}`: choose another --workdir for this {command}")
    if found and not held and command != "train":
        raise UserError(f"{workdir} holds something else ({found[0]}): choose another --workdir for this {command}")


def kind(workdir: Path) -> str:
    """The command whose run the folder holds, "" where there is none."""
    found = _content(workdir)
    if found and (workdir / COMMAND).is_file():
        return (workdir / COMMAND).read_text(encoding="utf-8", errors="replace").strip()[:40]
    return "train" if CONFIG in found else ""


def _content(workdir: Path) -> list[str]:
    """What lies in the folder; a run that ended before its setup was over leaves nothing of its own."""
    return sorted(p.name for p in workdir.iterdir() if p.name not in (LOCK, COMMAND)) if workdir.is_dir() else []


def mark(workdir: Path, command: str) -> None:
    """Says in the folder whose run it holds; a folder without such a mark is one of `train`."""
    write_atomically(workdir / COMMAND, f"{command}\n")


def store_config(cfg: Config, workdir: Path, changed: Sequence[str] = (), step: int = 0) -> None:
    """Writes the resolved config and what it differs in from the defaults. An accepted change is recorded with the
    step from which it holds."""
    if changed:
        JsonLines(workdir / CONFIG_CHANGES).write(step, {"changed": list(changed)})
    write_atomically(workdir / CONFIG, json.dumps(config.to_dict(cfg), indent=1))
    write_atomically(workdir / CONFIG_DIFF, "".join(f"{line}\n" for line in difference(Config(), cfg)))


def stored_config(workdir: Path) -> Config:
    """The config of the run in `workdir`."""
    path = workdir / CONFIG
    if not path.is_file():
        raise UserError(f"no run in {workdir}: {path.name} is missing")
    stored = parse_line(path.read_bytes())
    if stored is None:
        raise UserError(f"{path} is not JSON: the run's config is lost")
    return config.from_ml_collections(stored)


def changes(workdir: Path, cfg: Config) -> list[str]:
    """What differs between the config stored in `workdir` and `cfg`; empty where there is no run."""
    path = workdir / CONFIG
    if not path.exists():
        return []
    try:
        return difference(stored_config(workdir), cfg)  # fields that came into the schema later have their defaults
    except UserError:  # fields that left the schema: compare what stands in the file
        old = parse_line(path.read_bytes())
        if old is None:
            return [f"{path} cannot be read"]
        return _differences(flat(old), flat(json.loads(json.dumps(config.to_dict(cfg)))))


def difference(old: Config, new: Config) -> list[str]:
    """One entry per field that differs: "config.a.b: old -> new"."""
    return _differences(*(flat(json.loads(json.dumps(config.to_dict(cfg)))) for cfg in (old, new)))


def summary(cfg: Config) -> str:
    """What a config differs in from the defaults, a line per group: "  train: steps=45 episodes=8"."""
    groups: dict[str, list[str]] = {}
    base, values = (flat(json.loads(json.dumps(config.to_dict(c)))) for c in (Config(), cfg))
    for name in sorted(values):
        if values[name] != base.get(name):
            _, _, rest = name.partition(".")
            group, _, field = rest.partition(".")
            groups.setdefault(group if field else "", []).append(f"{field or group}={values[name]}")
    lines = (f"  {group}: {' '.join(fields)}" if group else f"  {' '.join(fields)}" for group, fields in groups.items())
    return "\n".join(["config, where it differs from the defaults:", *lines])


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)
    ]


def flat(tree: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Dotted names and values of nested groups."""
    values = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}.{key}") if isinstance(value, Mapping) else {f"{prefix}.{key}": value}
    return values


@functools.cache
def code_version() -> str:
    """Version of the package and a digest of its source files: "0.1.0+3f2a…". Equal digests, equal code."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()[:12]}"
