"""A run's folder with a damaged file: logs, reports, results."""

from __future__ import annotations

import contextlib
import io
import json
import random

from finemem_jax import files
from finemem_jax.reporting import overlay, report, watch
from tests.fuzz.pieces import text, value
from tests.fuzz.places import own_folder
from tests.reporting import runs

RUN, OTHER = own_folder() / "run", own_folder() / "other"


def damaged_run(rng: random.Random) -> None:
    """A run's folder with a file cut off, changed by a few bytes or with a line of another kind: it has a report, can
    be followed and laid over another, and its logs open again."""
    for folder in (RUN, OTHER):
        if not folder.is_dir():
            runs.write_run(folder, episodes=2, steps=2)
    path = rng.choice(sorted(path for path in RUN.rglob("*.json*") if ".damaged-" not in path.name))
    whole = data = path.read_bytes()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(max(1, len(data)))
        match rng.randrange(5):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 2:
                data = data[:at] + json.dumps(value(rng)).encode() + data[at + rng.randrange(8) :]
            case 3:
                lines = data.split(b"\n")
                lines.insert(rng.randrange(len(lines)), json.dumps(value(rng)).encode())
                data = b"\n".join(lines)
            case _:
                data = data.replace(
                    rng.choice((b"0", b'"', b"step", b"[", b"null")), text(rng).encode("utf-8", "replace"), 3
                )
    path.write_bytes(data)
    try:
        match rng.randrange(4):
            case 0:
                overlay.write_overlay([RUN, OTHER])
            case 1:
                assert json.loads(watch.Followed(RUN, 1.0).data())
            case _:
                report.write_report(RUN)
        if path.suffix == ".jsonl" and path.parent == RUN:
            with contextlib.redirect_stderr(io.StringIO()):
                log = files.JsonLines(path, keep_below=2)
                log.write(2, {})
            assert files.read_lines(path)[-1] == {"step": 2}
    finally:
        path.write_bytes(whole)
        for kept in RUN.glob("*.damaged-*"):
            kept.unlink()
