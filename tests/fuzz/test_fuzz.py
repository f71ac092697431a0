"""Random and mutated model outputs, config overrides and dataset rows: each ends in a value or in an error of ours.

pytest tests/fuzz                       a short run (its seed and time are printed with -s)
python tests/fuzz/test_fuzz.py          the long one: 100,000 of each kind
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest

from finemem_jax import config, main
from finemem_jax.benchmarks import memalpha
from finemem_jax.config import MemoryConfig, UserError
from finemem_jax.env import operations, scoring
from finemem_jax.env.environment import apply
from finemem_jax.env.retrieval import BM25
from finemem_jax.files import _dump, _encode
from finemem_jax.memory import flat
from finemem_jax.types import MemoryItem

ROOT = Path(__file__).parents[2]
PIECES = (
    *("<tool_call>", "</tool_call>", "<tool_call", "FUNCTION:", "ARGS:", "{", "}", "[", "]", '"', "'", ":", ",", "\\"),
    '{"name": "memory_insert", "arguments": {"content": "the boat is red"}}',
    *('"name"', '"arguments"', '"content"', '"id"', "memory_insert", "memory_update", "memory_delete", "memory_skip"),
    *("#1", "../../etc/passwd", "/dev/null", "con.txt", "%s", "{0}", "$(id)", "`id`", "-1", "1e999", "null", "true"),
    *("\x00", "\x1b[31m", "\x1b]0;title\x07", "\ud83d", "\\ud83d", "\u2028", "\u202e", "\ufeff", "\x85", "é", "漢字"),
    *(
        "😀",
        "<script>alert(1)</script>",
        "</script>",
        "<!--",
        "&lt;",
        "NaN",
        "Infinity",
        "```json\n",
        "```",
        "\n",
        "\r",
    ),
    *("\t", " ", "//", "/*", "a", "b" * 50, "{" * 30, "[" * 30, '"a" + "b"'),
)
VALUES = (
    *(0, 1, -1, 3, 0.5, 1e-9, 1e30, 10**30, float("nan"), float("inf"), True, False, None, "", "x", "none", "full"),
    *("\x1b[31m", "\ud83d", "../..", [], ["expert"], (1.0, 0.0), (200,), {}, {"format": 1.0}, {"steps": 3}, [[]]),
    "a" * 5000,
)


def value(rng: random.Random) -> object:
    """One of VALUES, free to be changed."""
    return copy.deepcopy(rng.choice(VALUES))


def text(rng: random.Random, base: str = "") -> str:
    """`base` with a few pieces put in, cut out or doubled; mostly pieces when there is no base."""
    for _ in range(rng.randint(1, 8)):
        at = rng.randint(0, len(base))
        match rng.randrange(4):
            case 0:
                end = min(len(base), at + rng.randint(0, 12))
                base = base[:at] + base[end:]
            case 1:
                base = (
                    base[:at]
                    + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), 0xD800, 0x1F600)))
                    + base[at:]
                )
            case _:
                base = base[:at] + rng.choice(PIECES) + base[at:]
    return base


GOOD_OUTPUT = operations.emit(
    [
        operations.types.Operation("memory_insert", {"content": "Ada's bike is green"}),
        operations.types.Operation("memory_update", {"id": "#1", "content": "Ada moved to Oslo"}),
        operations.types.Operation("memory_delete", {"id": "#1"}),
    ]
)


def model_output(rng: random.Random) -> None:
    """Parsed, applied to a memory, searched, scored and recorded."""
    written = text(rng, rng.choice((GOOD_OUTPUT, "")))
    memory = flat.create(MemoryConfig(max_items=4, max_item_tokens=64), lambda t: len(t.encode()) // 4)
    memory, _ = memory.apply(operations.types.Operation("memory_insert", {"content": "old"}), 0)
    codec = rng.choice(("qwen", "function_args"))
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
GOOD_ROW = {
    "data_source": "squad",
    "chunks": json.dumps(["Ada lives in Oslo.", "Her bike is red."]),
    "questions_and_answers": json.dumps([{"question": "Where does Ada live?", "answer": ["Oslo"]}]),
    "metadata": json.dumps({"evidence": [[0]]}),
}


def dataset_row(rng: random.Random) -> None:
    """A row with fields cut, mutated, retyped or nested, read from a JSON-lines file."""
    row: dict = dict(GOOD_ROW)
    for name in rng.sample(list(row), rng.randint(1, 3)):
        match rng.randrange(6):
            case 0:
                del row[name]
            case 1:
                row[name] = value(rng)
            case 2:
                row[name] = json.loads(row[name]) if name != "data_source" else [row[name]]
            case 3:
                row[text(rng, name)] = row.pop(name)
            case 4:
                row[name] = "[" * rng.choice((1, 50, 100_000)) + str(row[name])
            case _:
                row[name] = text(rng, str(row[name]))
    line = json.dumps(row, default=str)
    if rng.random() < 0.1:
        line = text(rng, line)
    path = FOLDER / "rows.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace"))
    try:
        for episode in memalpha.read_file(str(path)):
            assert episode.chunks and episode.id.encode() is not None
    except UserError as error:
        assert str(path) in str(error)


FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))
KINDS: dict[str, tuple[Callable[[random.Random], None], float]] = {  # and its share of the long run's count
    "model outputs": (model_output, 1.0),
    "config trees": (config_tree, 0.98),
    "config overrides": (override, 0.02),
    "dataset rows": (dataset_row, 1.0),
}


def fuzz(kind: str, count: int, seed: int) -> str:
    """Tries `count` inputs of a kind, each from a seed of its own; raises what went wrong with the seed in a note."""
    action, share = KINDS[kind]
    started, cpu = time.monotonic(), time.process_time()
    for i in range(round(count * share)):
        try:
            action(random.Random(f"{kind} {seed} {i}"))
        except Exception as error:
            error.add_note(f"{kind}: seed {seed}, input {i}")
            raise
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    return f"{kind}: {round(count * share):,} inputs, seed {seed}, {seconds:.0f} s ({cpu:.0f} s of CPU time)"


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_input_ends_in_a_traceback(kind):
    print(fuzz(kind, 500, seed=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="this kind alone")
    given = parser.parse_args()
    for name in [given.kind] if given.kind else KINDS:
        print(fuzz(name, given.count, given.seed), flush=True)
