"""Random and mutated model outputs, config overrides, dataset rows and raw files: each ends in a value or in an error
of ours.

pytest tests/fuzz                       a short run (printed with -s)
python tests/fuzz/test_fuzz.py          the long one: 100,000 of each kind

The long one says after each slice how far it is, and ends with exit code 1 where an input failed or took a second. One
that was stopped goes on with `--kind KIND --start NUMBER`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest

from finemem_jax import config, main
from finemem_jax.config import MemoryConfig, UserError
from finemem_jax.env import operations, scoring
from finemem_jax.env.environment import apply
from finemem_jax.env.retrieval import BM25
from finemem_jax.files import _dump, _encode
from finemem_jax.types import MemoryItem, Operation, ToolSpec
from tests.fuzz import caches, damaged_runs, model_folders, published, rows, templates
from tests.fuzz.pieces import PIECES, VALUES, text, value

ROOT = Path(__file__).parents[2]
MEMORIES = {name: config.resolve("finemem_jax.memory", name) for name in config.plugins("finemem_jax.memory")}
FITTING = [  # every memory with every codec that its operations can be written in
    (memory, codec)
    for memory, module in MEMORIES.items()
    for codec in config.plugins("finemem_jax.codecs")
    if module.SPECS and not operations.unfit(codec, module.SPECS)
]
ARGUMENTS = ("#1", "s1", "e1", "Ada's bike is green", "Ada moved to Oslo")


def good_operation(rng: random.Random, spec: ToolSpec) -> Operation:
    """One that its tool takes; whether memory does is another matter."""
    given = [name for name in spec.parameters if name not in spec.optional or rng.random() < 0.5]
    return Operation(spec.name, {name: rng.choice(tuple(spec.choices.get(name, ARGUMENTS))) for name in given})


def model_output(rng: random.Random) -> None:
    """Parsed, applied to a memory, searched, scored and recorded."""
    name, codec = rng.choice(FITTING)
    specs = MEMORIES[name].SPECS
    good = [good_operation(rng, rng.choice(specs)) for _ in range(rng.randint(0, 3))]
    written = text(rng, operations.emit(good, codec, specs))
    if rng.random() < 0.05:  # a loop: an unclosed fence before thousands of lines, brackets in brackets
        written = text(rng, rng.choice(PIECES) + rng.choice(PIECES) * rng.randint(100, 2000))
    memory = MEMORIES[name].create(
        MemoryConfig(name=name, max_items=4, max_item_tokens=64, max_tokens=200), lambda t: len(t.encode()) // 4
    )
    for operation in good:
        memory, _ = memory.apply(operation, 0)
    parsed = operations.parse(written, specs, codec=codec, is_cut=rng.random() < 0.3, is_thinking=rng.random() < 0.1)
    memory, outcomes = apply(memory, parsed, 1, MemoryConfig(max_operations=8), memory.items)
    assert len(outcomes) == len(parsed)
    assert all(isinstance(item, MemoryItem) and item.text.encode() for item in memory.items)
    BM25([item.text for item in memory.items]).search(written, 3)
    metric = rng.choice(("exact_match", "boxed_match", "substring_match", "token_f1", "rouge_l", "keyword_recall"))
    assert 0 <= scoring.score(metric, written, (text(rng, "red"), "")) <= 1
    record = {"text": written, "operations": [{"name": p.name, **p.arguments, "error": p.error} for p in parsed]}
    line = _encode(_dump(record))
    assert b"\n" not in line and json.loads(line)["text"] == written


def config_tree(rng: random.Random) -> None:
    """The defaults with a few fields replaced by anything."""
    tree = config.to_dict(config.Config())
    for name in rng.sample(NAMES, rng.randint(1, 3)):
        node, (*groups, leaf) = tree, name.split(".")[1:]
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[text(rng, leaf) if rng.random() < 0.1 else leaf] = value(rng)
    with contextlib.suppress(UserError):
        assert isinstance(config.from_ml_collections(tree), config.Config)


def override(rng: random.Random) -> None:
    """The same through the command line: `--config.a.b=value`."""
    name = rng.choice(NAMES)
    name = text(rng, name) if rng.random() < 0.2 else name
    given = rng.choice((str(rng.choice(VALUES)), text(rng)))
    with contextlib.suppress(UserError):
        main.load_config(str(ROOT / "configs/quickstart.py"), [f"--{name}={given}".replace("\x00", "")])


NAMES = config.dotted_names(config.to_dict(config.Config()))

HANG = 1.0  # CPU seconds of one input; the long run alone is held to it, on a machine that is known

KINDS: dict[str, Callable[[random.Random], None]] = {
    "model outputs": model_output,
    "config trees": config_tree,
    "config overrides": override,
    "dataset rows": rows.benchmark_rows,
    "published files": published.published_file,
    "judges' replies": published.judges_reply,
    "chat templates": templates.chat_template,
    "answer caches": caches.answer_cache,
    "raw files": rows.raw_files,
    "damaged runs": damaged_runs.damaged_run,
    "model folders": model_folders.model_folder,
}


@dataclass(slots=True)
class Tried:
    """What came of the inputs `start` to `end` (not included) of a kind, each made from a seed of its own."""

    kind: str
    seed: int
    start: int
    end: int
    failures: int = 0
    slowest: float = 0.0  # CPU seconds of one input
    slowest_input: int = 0
    seconds: float = 0.0  # CPU time of all

    def __str__(self) -> str:
        return (
            f"{self.kind}: seed {self.seed}, inputs {self.start:,} to {self.end - 1:,}, {self.failures} failures, "
            f"{self.seconds:.0f} s of CPU time, the slowest {self.slowest:.2f} s (input {self.slowest_input})"
        )


@functools.cache
def _use_first(kind: str, count: int) -> None:
    """Once in a process: what is imported at a first use is no input's time."""
    for i in range(count):
        with contextlib.suppress(Exception):  # what is wrong is found again, and counted
            KINDS[kind](random.Random(i))


def fuzz(kind: str, count: int, seed: int, start: int = 0) -> Tried:
    """Tries `count` inputs of a kind; what goes wrong is counted, and shown with seed and number of the input."""
    action, tried = KINDS[kind], Tried(kind, seed, start, start + count)
    _use_first(kind, min(count, 100))
    for i in range(start, start + count):
        before = time.process_time()
        try:
            action(random.Random(f"{kind} {seed} {i}"))
        except Exception:
            tried.failures += 1
            print(f"{kind}: seed {seed}, input {i}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        taken = time.process_time() - before
        tried.seconds += taken
        if taken > tried.slowest:
            tried.slowest, tried.slowest_input = taken, i
    return tried


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_input_ends_in_a_traceback(kind):
    tried = fuzz(kind, 500, seed=0)
    print(tried)
    assert not tried.failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=0, help="the first input")
    parser.add_argument("--slice", type=int, default=5_000, help="a line after so many inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="this kind alone")
    given = parser.parse_args()
    is_well = True
    for name in [given.kind] if given.kind else KINDS:
        for start in range(given.start, given.count, given.slice):
            tried = fuzz(name, min(given.slice, given.count - start), given.seed, start)
            print(tried, flush=True)
            is_well &= not tried.failures and tried.slowest <= HANG
    sys.exit(not is_well)
