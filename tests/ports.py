"""Ports for servers of other processes: nobody else's, from the moment they are handed out until the tests end.

A port that the kernel gave and took back may be anybody's when it is used: the next client's, or another worker's of
the suite. These lie below those that the kernel gives to clients, beside FakeServer's, and each is locked by a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import socket
import tempfile
from pathlib import Path

PORTS = range(16000, 30000)
_held: list[object] = []  # open files: their locks are held until this process ends


def reserve_port() -> int:
    """A port that nothing listens on, on any interface, and that no other process of the tests is given."""
    folder = Path(tempfile.gettempdir()) / "finemem-test-ports"
    folder.mkdir(exist_ok=True)
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        file = (folder / str(port)).open("w")
        with contextlib.suppress(OSError), socket.socket() as probe:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            probe.bind(("", port))
            _held.append(file)
            return port
        file.close()
    raise RuntimeError(f"no free port in {PORTS}")
