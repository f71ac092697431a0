"""Several processes as one run: their start and end, and every decision that all of them must take alike.

A run of one process passes through all of this unchanged. In a run of several, each makes the rollouts of whole
groups and then tells the others what it has; rewards, advantages, metrics, alarms and the layout of a batch are
functions of what all have told, computed alike everywhere, so that no process decides alone to stop, to save or to
take another shape. Only process 0 writes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from finemem_jax import exits
from finemem_jax.config import UserError
from finemem_jax.exits import RunEnded
from finemem_jax.hosts.peers import Peers, end_now
from finemem_jax.hosts.place import Place
from finemem_jax.hosts.secret import run_secret
from finemem_jax.types import AnswererDown

T = TypeVar("T")

ENDINGS = (RunEnded, AnswererDown, FloatingPointError, UserError)
"""What may end a run in one of its processes and is no defect: see `together`."""

# Backstops behind hosts/peers.py, which notices first: jax's own verdict ends a process with a C++ abort.
HEARTBEAT_SECONDS = 600
SHUTDOWN_SECONDS = 60
NEWS_SECONDS = 3.0  # for news of a lost process to come, after an error that its loss may have caused
SHARED_SECONDS = 30.0  # for a file written by one host to be seen by the others


# --------------------------------------------------------------------------------------------------------------
# Start and end
# --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(place: Place | None, workdir: Path, *, silence: float = 45.0, start_timeout: float = 60.0) -> Iterator[None]:
    """Runs the block as one process of the run in `workdir`; `place` None is a run of one process.

    However the block ends, the other processes hear of it and end too: with the same line and exit code after an
    error, by themselves after an end that all agreed on. A process that is killed or falls silent ends all others
    with exit code 76. An error does not come out of this: the process ends here, since an orderly shutdown would
    wait for processes that are gone.
    """
    if place is None:
        yield
        return
    secret = run_secret(workdir, place.process, start_timeout)
    peers = Peers(place, secret, silence=silence, start_timeout=start_timeout)
    try:
        _start_jax(place, peers.connect())
        yield
    except RunEnded as error:
        _leave(peers, error.code, str(error))
        raise
    except (Exception, KeyboardInterrupt) as error:
        _fail(peers, error)
    else:
        _leave(peers, exits.DONE)


def _start_jax(place: Place, address: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_check_proxy_envs", False)
    # The service is on this host, or behind a relay on it: no proxy leads there.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
    jax.distributed.initialize(
        address,
        place.processes,
        place.process,
        local_device_ids=place.local_devices,
        cluster_detection_method="deactivate",
        coordinator_bind_address=address if place.process == 0 else None,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


def _leave(peers: Peers, code: int, reason: str = "") -> None:
    peers.leave(code, reason)
    with contextlib.suppress(RuntimeError):  # the shutdown waits for all; those that do not come have lost the run
        jax.distributed.shutdown()
    peers.wait()


def _fail(peers: Peers, error: BaseException) -> None:
    if isinstance(error, UserError):
        code, line = exits.USER_ERROR, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, line = exits.INTERRUPTED, "interrupted"
    else:
        # A collective fails when another process dies, often before the news of that is here.
        time.sleep(NEWS_SECONDS)
        traceback.print_exception(error)
        code, line = exits.CRASHED, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    peers.leave(code, line)
    end_now(code, line)


# --------------------------------------------------------------------------------------------------------------
# Who is who
# --------------------------------------------------------------------------------------------------------------


def process_index() -> int:
    return jax.process_index()


def process_count() -> int:
    return jax.process_count()


def is_lead() -> bool:
    """True in the one process that writes logs, reports and exported folders."""
    return jax.process_index() == 0


# --------------------------------------------------------------------------------------------------------------
# What all know, and decide alike
# --------------------------------------------------------------------------------------------------------------


def all_gather(value: T, shared: Sequence[object] = ()) -> list[T]:
    """The value of every process, in their order. Every process calls it at the same point.

    shared: objects that every process has, in the same order. They are not sent: where one occurs in a value, the
    receiver puts its own. (Also for what cannot be sent, like functions.)
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(_dump(value, shared), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    # A power of two: each length is a compilation of its own.
    padded = np.zeros(1 << max(int(lengths.max()) - 1, 1).bit_length(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)  # [processes, bytes]
    return [_load(row[:length].tobytes(), shared) for row, length in zip(rows, lengths, strict=True)]


def union(mine: Mapping[int, T], shared: Sequence[object] = ()) -> dict[int, T]:
    """What all processes have, by number; each number is in one of them. In the order of the numbers."""
    everything: dict[int, T] = {}
    for part in all_gather(dict(mine), shared):
        everything |= part
    return dict(sorted(everything.items()))


def from_lead(value: T) -> T:
    """Process 0's value, in every process: for what was read from a file that process 0 writes."""
    told: list = all_gather(value if is_lead() else None)
    return told[0]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process: the same answer in all."""
    return any(all_gather(bool(flag)))


def all_processes(flag: bool) -> bool:
    """Whether the flag is set in every process: the same answer in all."""
    return all(all_gather(bool(flag)))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around work that each process does by itself and that may end a run: when it does in one process, it does in
    all, with the same words. Otherwise the others would wait at the next collective. `ENDINGS` are raised as what they
    are; for any other error, which is a defect, the other processes raise RunEnded."""
    error = None
    try:
        yield
    except Exception as raised:
        if jax.process_count() == 1:
            raise
        error = raised
    told = None
    if error is not None:
        kind = ENDINGS.index(type(error)) if type(error) in ENDINGS else ENDINGS.index(RunEnded)
        words = str(error) if type(error) in ENDINGS else f"{type(error).__name__}: {error}"
        told = kind, words, getattr(error, "code", exits.STOPPED if type(error) in ENDINGS else exits.CRASHED)
    for process, ending in enumerate(all_gather(told)):
        if ending is not None:
            if error is None:
                kind, words, code = ending
                words = f"process {process}: {words}"
                error = RunEnded(words, code) if ENDINGS[kind] is RunEnded else ENDINGS[kind](words)
            error.is_known_to_all = True  # type: ignore[attr-defined]
            raise error


def is_known_to_all(error: BaseException) -> bool:
    """Whether every process of the run meets an error at this point, so that all may do something about it together."""
    return jax.process_count() == 1 or getattr(error, "is_known_to_all", False)


def require_same(value: Mapping[str, Any], what: str) -> None:
    """Raises UserError in every process when one of them has another value. JSON-able, with dotted names as keys."""
    texts = [{k: json.dumps(v, sort_keys=True) for k, v in values.items()} for values in all_gather(dict(value))]
    for process, other in enumerate(texts):
        differing = [k for k in sorted(texts[0] | other) if texts[0].get(k) != other.get(k)]
        if differing:
            found = "; ".join(f"{k}: {texts[0].get(k)} and {other.get(k)}" for k in differing)
            raise UserError(f"processes 0 and {process} have another {what} ({found}): start all alike")


def require_shared(workdir: Path) -> None:
    """Raises UserError in every process when one of them sees another folder than process 0 at this path."""
    if jax.process_count() == 1:
        return
    probe = workdir / f".seen-by-all-{os.getpid()}" if is_lead() else None
    if probe:
        workdir.mkdir(parents=True, exist_ok=True)
        probe.touch()
    name = all_gather(probe.name if probe else "")[0]
    deadline = time.monotonic() + SHARED_SECONDS
    while not (seen := (workdir / name).exists()) and time.monotonic() < deadline:
        time.sleep(0.5)  # network file systems show a new file late
    blind = [process for process, found in enumerate(all_gather(seen)) if not found]
    if probe:
        probe.unlink()
    if blind:
        raise UserError(
            f"--workdir={workdir}: process {', '.join(map(str, blind))} sees another folder there than process 0; it "
            "must lie on a file system that all hosts share"
        )


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: Sequence[object]):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._known = {id(value): index for index, value in enumerate(shared)}

    def persistent_id(self, value: object) -> int | None:
        return self._known.get(id(value))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: Sequence[object]):
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, index: int) -> object:
        return self._shared[index]


def _dump(value: object, shared: Sequence[object]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, shared).dump(value)
    return file.getvalue()


def _load(data: bytes, shared: Sequence[object]) -> Any:
    return _Unpickler(io.BytesIO(data), shared).load()
