"""What an evaluation has finished, block by block, so that one that was killed goes on where it stopped.

The first line names what is evaluated (a fingerprint of data, config and policy); a file with another one is begun
anew. Then one line per episode with a checksum, written a block at a time: {"block", "record", "crc"}. A block of which
a line is missing, damaged or short of an answer does not count: it is played again as a whole, in the batch it had
before, so that its result is the same. Questions that were answered before the kill are in the answerer's cache and are
not asked again. A file with damaged lines is kept under another name.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from finemem_jax.files import recover, write_atomically


class EvaluationLog:
    """The records of one policy or baseline."""

    def __init__(self, path: Path, fingerprint: str, blocks: Sequence[int]):
        """blocks: how many episodes each block has."""
        self._path = path
        self._first = json.dumps({"fingerprint": fingerprint})
        self._blocks = blocks
        self._done: dict[int, list[dict]] = {}  # block -> its records
        found = recover(path, _is_line).records
        if found and found[0] == {"fingerprint": fingerprint}:
            self._read(found[1:])
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
        return "".join(_line(block, record) for record in self._done[block])

    def _read(self, lines: Sequence[Mapping]) -> None:
        found: dict[int, list[dict]] = {}
        for line in lines:
            if "record" in line:
                found.setdefault(line["block"], []).append(line["record"])
        for block, size in enumerate(self._blocks):
            records = found.get(block, [])
            if len(records) == size and all(None not in record["scores"] for record in records):
                self._done[block] = records


def _line(block: int, record: Mapping) -> str:
    # ASCII, because text of models may hold what ends a line for some readers, or what UTF-8 cannot say
    return json.dumps({"block": block, "record": record, "crc": _checksum(block, record)}) + "\n"


def _checksum(block: int, record: Mapping) -> int:
    return zlib.crc32(json.dumps([block, record]).encode())


def _is_line(line: dict) -> bool:
    if line.keys() == {"fingerprint"}:
        return isinstance(line["fingerprint"], str)
    return line.keys() == {"block", "record", "crc"} and line["crc"] == _checksum(line["block"], line["record"])
