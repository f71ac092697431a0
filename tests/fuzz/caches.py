"""Damaged caches of answers."""

from __future__ import annotations

import contextlib
import functools
import io
import random
from pathlib import Path

from finemem_jax.chat.reply_store import ReplyStore
from finemem_jax.types import Reply
from tests.fuzz.places import own_folder

FOLDER = own_folder()
REPLIES = {f"{i:064x}": Reply(f"answer {i} " + "é" * (i * 37 % 900), i, 3) for i in range(0, 1 << 30, 10_000_019)}


@functools.cache
def good_cache() -> dict[str, bytes]:
    """The files of a cache of REPLIES, by the end of their names: as a process that is killed leaves them, with what
    came last in the log beside the database."""
    path = FOLDER / "good.sqlite"
    store = ReplyStore(str(path), 1 << 30)
    for key, reply in REPLIES.items():
        store.keep(key, reply)
    files = {end: Path(f"{path}{end}").read_bytes() for end in ("-wal", "-shm")}
    store.close()  # moves all of the log into the database
    whole = path.read_bytes()
    return {"": whole, "-wal": files["-wal"]}


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A few bits turned, bytes overwritten, pages exchanged or cleared, the end cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        # the head of the file or of a page more often than chance would have it
        at = rng.choice((rng.randrange(100), rng.randrange(0, len(found), 4096) + rng.randrange(16))) % len(found)
        at = rng.choice((at, rng.randrange(len(found))))
        match rng.randrange(8):
            case 0:
                found[at : at + 16] = rng.randbytes(16)
            case 1:
                page, other = (rng.randrange(0, len(found), 4096) for _ in range(2))
                found[page : page + 4096], found[other : other + 4096] = (
                    found[other : other + 4096],
                    found[page : page + 4096],
                )
            case 2:
                found[at : at + rng.choice((1, 4, 4096))] = bytes(rng.choice((1, 4, 4096)))
            case 3 if rng.random() < 0.2:
                del found[at:]
                found += b"\0"
            case _:
                found[at] ^= 1 << rng.randrange(8)
    return bytes(found)


def answer_cache(rng: random.Random) -> None:
    """A damaged cache: every reply it gives is the one that was kept, and it goes on keeping new ones."""
    path = FOLDER / "damaged.sqlite"
    for file in FOLDER.glob("damaged.sqlite*"):
        file.unlink()
    ends = rng.choice((("",), ("",), ("-wal",), ("", "-wal")))
    for end in ends:
        Path(f"{path}{end}").write_bytes(damaged(rng, good_cache()[end]))
    with contextlib.redirect_stderr(io.StringIO()):
        store = ReplyStore(str(path), 1 << 30)
        unknown = set(REPLIES)
        for _ in range(2):
            for key, reply in store.find([*REPLIES, "f" * 64]).items():
                kept = REPLIES[key]
                assert (reply.text, reply.prompt_tokens) == (kept.text, kept.prompt_tokens)
                assert reply.completion_tokens == kept.completion_tokens
                unknown.discard(key)
            for key in [*rng.sample(list(REPLIES), 3), *sorted(unknown)]:
                store.keep(key, REPLIES[key])
        store.close()
