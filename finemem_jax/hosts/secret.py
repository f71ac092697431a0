"""What the processes of a run know and nobody else: the secret in the run's folder, and proofs of knowing it.

All processes see the folder, and none but its owner may read the file: whoever comes to the coordinator's port without
it is a stranger. The secret itself is never sent: each side proves that it knows it over a number that the other has
just drawn, so a proof that was overheard proves nothing later. What is said after it is neither hidden nor signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

from finemem_jax.config import UserError

FILE = ".run-secret"
HELLO_SECONDS = 10.0  # for the other end to say who it is
LOOK_SECONDS = 0.25


def run_secret(workdir: Path, process: int, seconds: float) -> bytes:
    """The secret of the run in `workdir`. Process 0 makes it, once for the folder; the others wait for it.

    Raises UserError when it does not come within `seconds`, or is none."""
    path = workdir / FILE
    if process == 0 and not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        _make(path)
    deadline = time.monotonic() + seconds
    while True:
        # Listing the folder makes a network file system look again for what was not there a moment ago.
        with contextlib.suppress(OSError):
            os.listdir(workdir)
        try:
            content = path.read_text(encoding="ascii", errors="replace").strip()
            break
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process {process}: process 0 has left no {FILE} in {workdir} within {seconds:g} s: --workdir "
                    "must lie on a file system that all hosts share (or raise --start-timeout)"
                ) from None
            time.sleep(LOOK_SECONDS)
    if not re.fullmatch(r"[0-9a-f]{64}", content):
        raise UserError(f"{path} does not hold the secret of a run: remove it, and start all processes again")
    return bytes.fromhex(content)


def _make(path: Path) -> None:
    """Writes a new secret that its owner alone may read, whole or not at all."""
    partial = path.with_name(f"{FILE}.{os.getpid()}-{secrets.token_hex(4)}")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as opened:
        opened.write(secrets.token_hex(32) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(path)


def proof(secret: bytes, *words: object) -> str:
    """What only someone who knows the secret can say about the words."""
    return hmac.new(secret, json.dumps([str(word) for word in words]).encode(), hashlib.sha256).hexdigest()


async def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes) -> dict[str, Any] | None:
    """Process 0's side of a new connection: what the other end says of itself, or None when it is a stranger.

    Raises OSError (TimeoutError is one) when it ends or says nothing.
    Numbers are those of processes: `processes` at least 2, `process` from 0 to `processes` - 1."""
    mine = secrets.token_hex(16)
    _send(writer, {"nonce": mine})
    try:
        line = await asyncio.wait_for(reader.readline(), HELLO_SECONDS)
        if not line:
            raise ConnectionResetError("the connection was closed")
        hello = json.loads(line)
        words = [hello[name] for name in ("kind", "process", "processes", "host", "nonce")]
        is_known = hmac.compare_digest(hello["proof"], proof(secret, "process", mine, *words))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    kind, process, processes, host, theirs = words
    is_said_well = (
        kind in ("jax", "news")
        and all(type(number) is int for number in (process, processes))
        and 0 <= process < processes >= 2
        and all(isinstance(text, str) for text in (host, theirs))
    )
    if not (is_known and is_said_well):
        return None
    _send(writer, {"proof": proof(secret, "process 0", theirs, mine)})
    return hello


async def introduce(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes, hello: dict[str, Any]
) -> None:
    """The other side of `admit`: says who this process is, and makes sure that process 0 knows the secret, too.

    Raises OSError when the connection ends meanwhile, UserError when it was turned away or leads to a stranger."""
    mine = secrets.token_hex(16)
    said = await _heard(reader)
    theirs = said.get("nonce")
    words = [hello[name] for name in ("kind", "process", "processes", "host")]
    _send(writer, hello | {"nonce": mine, "proof": proof(secret, "process", theirs, *words, mine)})
    answer = await _heard(reader)
    if "refused" in answer:
        raise UserError(f"process {hello['process']}: {answer['refused']}")
    known = answer.get("proof")
    if not isinstance(known, str) or not hmac.compare_digest(known, proof(secret, "process 0", mine, theirs)):
        raise UserError(
            f"process {hello['process']}: what listens there is not process 0 of this run: it does not know the "
            "secret in --workdir (--coordinator)"
        )


async def _heard(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next message; an empty one for what is none. Raises OSError when the connection has ended, or none comes."""
    try:
        line = await asyncio.wait_for(reader.readline(), HELLO_SECONDS)
        message = json.loads(line) if line else None
    except (ValueError, RecursionError):
        return {}
    if message is None:
        raise ConnectionResetError("the connection was closed")
    return message if isinstance(message, dict) else {}


def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        writer.write(json.dumps(message).encode() + b"\n")
