"""What an evaluation has finished, block by block, so that one that was killed goes on where it stopped.

The first line names what is evaluated (a fingerprint of data, config and policy); a file with another one is begun
anew. Then one line per episode, written a block at a time. A block of which a line is missing, broken or short of an
answer does not count: it is played again as a whole, in the batch it had before, so that its result is the same.
Questions that were answered before the kill are in the answerer's cache and are not asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from finemem_jax.files import write_atomically


class EvaluationLog:
    """The records of one policy or baseline."""

    def __init__(self, path: Path, fingerprint: str, blocks: Sequence[int]):
        """blocks: how many episodes each block has."""
        self._path = path
        self._first = json.dumps({"fingerprint": fingerprint})
        self._blocks = blocks
        self._done: dict[int, list[dict]] = {}  # block -> its records
        lines = path.read_bytes().decode("utf-8", "replace").split("\n") if path.exists() else []
        if lines and lines[0] == self._first:
            self._read(lines[1:])
        write_atomically(path, "".join([self._first + "\n", *(self._text(block) for block in sorted(self._done))]))

    def missing(self) -> list[int]:
        """The blocks still to be played."""
        return [block for block in range(len(self._blocks)) if block not in self._done]

    def write(self, block: int, records: Sequence[Mapping]) -> None:
        """Keeps a block. A kill while it is written leaves a part that the next run drops."""
        self._done[block] = [dict(record) for record in records]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._text(block))
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[dict]:
        """All of them, in the order of the episodes."""
        return [record for _, records in sorted(self._done.items()) for record in records]

    def _text(self, block: int) -> str:
        # ASCII, because text of models may hold what ends a line for some readers, or what UTF-8 cannot say
        return "".join(json.dumps({"block": block, **record}) + "\n" for record in self._done[block])

    def _read(self, lines: Sequence[str]) -> None:
        found: dict[int, list[dict]] = {}
        for line in lines:
            try:
                record = json.loads(line)
                found.setdefault(record.pop("block"), []).append(record)
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
                continue
        for block, size in enumerate(self._blocks):
            records = found.get(block, [])
            if len(records) == size and all(None not in record["scores"] for record in records):
                self._done[block] = records
