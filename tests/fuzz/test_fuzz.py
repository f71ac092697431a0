"""Random and mutated model outputs, config overrides, dataset rows and raw files: each ends in a value or in an error
of ours.

pytest tests/fuzz                       a short run (its seed and time are printed with -s)
python tests/fuzz/test_fuzz.py          the long one: 100,000 of each kind
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections.abc import Callable
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
from finemem_jax.memory import flat
from finemem_jax.types import MemoryItem, Operation
from tests.fuzz import caches, damaged_runs, model_folders, rows, templates
from tests.fuzz.pieces import PIECES, VALUES, text, value

ROOT = Path(__file__).parents[2]
GOOD_OUTPUT = operations.emit(
    [
        Operation("memory_insert", {"content": "Ada's bike is green"}),
        Operation("memory_update", {"id": "#1", "content": "Ada moved to Oslo"}),
        Operation("memory_delete", {"id": "#1"}),
    ]
)


CODECS = config.plugins("finemem_jax.codecs")


def model_output(rng: random.Random) -> None:
    """Parsed, applied to a memory, searched, scored and recorded."""
    written = text(rng, rng.choice((GOOD_OUTPUT, "")))
    if rng.random() < 0.05:  # a loop: an unclosed fence before thousands of lines, brackets in brackets
        written = text(rng, rng.choice(PIECES) + rng.choice(PIECES) * rng.randint(100, 2000))
    memory = flat.create(MemoryConfig(max_items=4, max_item_tokens=64), lambda t: len(t.encode()) // 4)
    memory, _ = memory.apply(Operation("memory_insert", {"content": "old"}), 0)
    codec = rng.choice(CODECS)
    parsed = operations.parse(written, flat.SPECS, codec=codec)
    memory, outcomes = apply(memory, parsed, 1, MemoryConfig(max_operations=8), memory.items)
    assert len(outcomes) == len(parsed)
    assert all(isinstance(item, MemoryItem) for item in memory.items)
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

KINDS: dict[str, tuple[Callable[[random.Random], None], float]] = {  # and its share of the long run's count
    "model outputs": (model_output, 1.0),
    "config trees": (config_tree, 0.98),
    "config overrides": (override, 0.02),
    "dataset rows": (rows.benchmark_rows, 1.0),
    "chat templates": (templates.chat_template, 0.2),
    "answer caches": (caches.answer_cache, 1.0),
    "raw files": (rows.raw_files, 0.2),
    "damaged runs": (damaged_runs.damaged_run, 1.0),
    "model folders": (model_folders.model_folder, 0.2),
}


def fuzz(kind: str, count: int, seed: int) -> tuple[str, float]:
    """Tries `count` inputs of a kind, each from a seed of its own; raises what went wrong with the seed in a note.

    Returns what was tried and how long it took, and the CPU seconds of the input that took longest."""
    action, share = KINDS[kind]
    for i in range(min(count, 100)):  # what is imported at a first use is no input's time
        action(random.Random(f"{kind} {seed} {i}"))
    started, cpu, slowest = time.monotonic(), time.process_time(), (0.0, 0)
    for i in range(round(count * share)):
        before = time.process_time()
        try:
            action(random.Random(f"{kind} {seed} {i}"))
        except Exception as error:
            error.add_note(f"{kind}: seed {seed}, input {i}")
            raise
        slowest = max(slowest, (time.process_time() - before, i))
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    taken = f"{seconds:.0f} s ({cpu:.0f} s of CPU time, {slowest[0]:.2f} s the slowest, input {slowest[1]})"
    return f"{kind}: {round(count * share):,} inputs, seed {seed}, {taken}", slowest[0]


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_input_ends_in_a_traceback(kind):
    print(fuzz(kind, 500, seed=0)[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="this kind alone")
    given = parser.parse_args()
    longest = 0.0
    for name in [given.kind] if given.kind else KINDS:
        said, seconds = fuzz(name, given.count, given.seed)
        longest = max(longest, seconds)
        print(said, flush=True)
    if longest > HANG:
        sys.exit(f"an input took {longest:.2f} s of CPU time, more than {HANG:g}: that is a hang")
