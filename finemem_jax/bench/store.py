"""The store of a manager with many items of one user: opening, writing, recalling, by the processor's time.

Figures are milliseconds of this process's CPU time, medians of the repeats. `open`: the memory is made from the log of
a store that is there, `index`: and made ready for its first recall; both are paid once by a process. `write`: a turn
that inserts an item, from the operation to the log on the disk and the index. `recall`: a question, after each of these
writes. `catch_up`: what a second process pays to learn of such a write.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from finemem_jax.config import MemoryConfig, PromptConfig, RetrievalConfig, UserError
from finemem_jax.env.environment import Environment, apply
from finemem_jax.manager.held import Held, changes
from finemem_jax.manager.store import Line, Store
from finemem_jax.types import Completion, Operation, Step

_USER = "u"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=100_000, help="in the store (default: %(default)s)")
    parser.add_argument("--words", type=int, default=12, help="of an item (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=50, help="writes and recalls (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    for name in ("items", "words", "repeats"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: must be at least 1")
    rng, most = random.Random(0), 2 * args.items * args.words + 10**6
    memory = MemoryConfig(max_items=2 * args.items + args.repeats, max_tokens=most)
    env = Environment(None, lambda text: len(text.split()), memory, PromptConfig(), RetrievalConfig())  # type: ignore
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.sqlite"
        _fill(Store(path), env, [_text(rng, args.words) for _ in range(args.items)])
        store = Store(path)
        held, opened = _timed(lambda: Held(env, store, _USER))
        _, index = _timed(lambda: held.recall(_text(rng, 8)))
        other = Held(env, Store(path), _USER)
        other.recall(_text(rng, 8))
        writes, recalls, others = [], [], []
        for _ in range(args.repeats):
            text = _text(rng, args.words)
            writes.append(_timed(functools.partial(_write, env, store, held, text))[1])
            recalls.append(_timed(functools.partial(held.recall, _text(rng, 8)))[1])
            others.append(_timed(other.catch_up)[1])
        size = path.stat().st_size
    return {
        "items": args.items,
        "repeats": args.repeats,
        "file_megabytes": size / 1e6,
        "open_ms": opened,
        "index_ms": index,
        "write_ms": statistics.median(writes),
        "recall_ms": statistics.median(recalls),
        "recall_worst_ms": max(recalls),
        "catch_up_ms": statistics.median(others),
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = work()
    return found, 1e3 * (time.process_time() - start)


def _text(rng: random.Random, words: int) -> str:
    """Words as frequent as those of a language are; the last is its own."""
    frequent = [f"w{min(int(rng.paretovariate(0.7)), 4000)}" for _ in range(words - 1)]
    return " ".join([*frequent, f"n{rng.randrange(10**9)}"])


def _fill(store: Store, env: Environment, texts: list[str]) -> None:
    """One turn of a writer without limits: through the memory it would take an hour to write so many."""
    lines = [
        Line(_USER, "insert", turn=0, item=f"#{number}", text=text, written_at=0, writers=(0,), operation="{}")
        for number, text in enumerate(texts, start=1)
    ]
    held = sum(env.count_tokens(text) for text in texts)
    state = {"turns": 1, "memory": {"next_id": len(texts) + 1, "held": held}}
    lines[-1] = replace(lines[-1], state=json.dumps(state))
    store.append(_USER, 0, lines)
    store.close()


def _write(env: Environment, store: Store, held: Held, text: str) -> None:
    """What `Manager.read` does once the model has written."""
    operation, turn = Operation("memory_insert", {"content": text}), held.turns
    after, outcomes = apply(held.memory, [operation], turn, env.memory, ())
    step = Step(turn, (), Completion((), (), "stop"), "", (operation,), outcomes, after)
    lines = [Line(_USER, "read", turn=turn), *changes(step, held.memory, env, (), Line(_USER, "read", turn=turn))]
    lines[-1] = replace(lines[-1], state=held.state_of(after, turn + 1))
    held.take(after, store.append(_USER, held.position, lines))
