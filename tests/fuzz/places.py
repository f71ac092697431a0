"""Folders for what the fuzzers write: in memory where there is such a place, and gone with the process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_made: list[tempfile.TemporaryDirectory] = []  # each is removed when this process ends


def own_folder() -> Path:
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    _made.append(tempfile.TemporaryDirectory(prefix="fuzz", dir=where, ignore_cleanup_errors=True))
    return Path(_made[-1].name)
