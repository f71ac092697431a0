"""Dataset rows and raw files, mutated: read by every reader, each ends in episodes or in an error of ours."""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import os
import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from finemem_jax.benchmarks import beam, convomem, halumem, locomo, longmemeval, memalpha, memory_agent_bench
from finemem_jax.config import DataConfig, UserError, resolve
from finemem_jax.corpora import BuildOptions, token_counter
from finemem_jax.corpora._build import write_rows
from finemem_jax.types import Episode
from tests.benchmarks.published import beam_row, convomem_item, halumem_user
from tests.corpora.conftest import WRITERS
from tests.fuzz.pieces import text, value
from tests.fuzz.places import own_folder

FOLDER = own_folder()
REAL = Path(os.environ.get("FINEMEM_DATA") or Path(__file__).parents[3] / "shared" / "data")

MEMALPHA = {
    "data_source": "squad",
    "chunks": json.dumps(["Ada lives in Oslo.", "Her bike is red."]),
    "questions_and_answers": json.dumps([{"question": "Where does Ada live?", "answer": ["Oslo"]}]),
    "metadata": json.dumps({"evidence": [[0]], "kinds": ["fact"], "chunk_questions": [[], []]}),
}
ORIGINAL = {
    "context": "Here are facts.\n\n" + "\n\n".join(f"{i}. The capital of land {i} is town {i}." for i in range(9)),
    "questions": ["What is the capital of land 3?"],
    "answers": [["town 3", "Town 3"]],
    "metadata": {"source": "factconsolidation_sh_6k", "qa_pair_ids": ["a"]},
}
SIDE = {"row": 0, "chunk": 1, "questions": [{"question": "Which colour?", "answer": "red"}]}
_READERS = (memalpha, memory_agent_bench, longmemeval, locomo, halumem, convomem, beam)
BENCHMARKS = {module.__name__.rpartition(".")[2]: module for module in _READERS}


def read(path: Path) -> object:
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def read_lines(path: Path) -> list:
    content = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()]


def shortened(tree: object, most: int = 3) -> object:
    """A record of a real file at a size that a fuzzer has time for."""
    if isinstance(tree, list):
        return [shortened(item, most) for item in tree[:most]]
    if isinstance(tree, dict):
        names = [name for name in tree if not name.startswith("session_") or name.split("_")[1] in ("1", "2")]
        return {name: shortened(tree[name], most) for name in names}
    return tree[:600] if isinstance(tree, str) else tree


@functools.cache
def good_rows(benchmark: str) -> list:
    """Rows that the benchmark reads, made up and real."""
    if benchmark == "memalpha":
        native = {name: json.loads(cell) if name != "data_source" else cell for name, cell in MEMALPHA.items()}
        return [MEMALPHA, native]
    if benchmark == "memory_agent_bench":
        return [ORIGINAL, MEMALPHA, {name: json.dumps(cell) for name, cell in ORIGINAL.items()} | {"context": "a b c"}]
    if benchmark == "halumem":
        return [halumem_user()]
    if benchmark == "convomem":
        case = {"evidenceItems": [convomem_item()], "conversations": convomem_item()["conversations"], "contextSize": 2}
        return [{"evidence_items": [convomem_item()], "checkpoint": None}, case]
    if benchmark == "beam":
        return [beam_row(), beam_row(json.dumps), beam_row(lambda questions: questions)]
    folder = FOLDER / f"good_{benchmark}"
    folder.mkdir(exist_ok=True)
    WRITERS[benchmark](folder)
    if benchmark == "locomo":
        rows = [shortened(row) for row in read(folder / "locomo_part.json.gz")[:2]]
        if REAL.is_dir():
            rows += [shortened(row) for row in read(REAL / "locomo" / "locomo_part.json.gz")[:2]]
        return rows
    rows = read_lines(folder / "part.jsonl")[:4]
    if REAL.is_dir():
        rows += [shortened(row) for row in read(REAL / "longmemeval" / "longmemeval_oracle_sample2.json")]
        rows += [shortened(row) for row in read_lines(REAL / "longmemeval" / "evidence_turns_part.jsonl.gz")[:4]]
    return rows


def mutated(tree: object, rng: random.Random) -> object:
    """The tree with one to three of its nodes cut, retyped, renamed, nested, written as JSON text or garbled."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        tree = _mutated_once(tree, rng)
    return tree


def _mutated_once(tree: object, rng: random.Random) -> object:
    nodes = list(_nodes(tree))
    if not nodes:
        return _other(tree, rng)
    holder, key = rng.choice(nodes)
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[text(rng, key)] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.insert(key, _other(holder[key], rng))
        case _:
            holder[key] = _other(holder[key], rng)
    return tree


def _nodes(tree: object):
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, node in list(pairs):
        yield tree, key
        yield from _nodes(node)


def _other(node: object, rng: random.Random) -> object:
    match rng.randrange(7):
        case 0:
            return value(rng)
        case 1:
            return json.dumps(node)
        case 2:
            return [node]
        case 3:
            return {"text": node}
        case 4:
            return text(rng, node if isinstance(node, str) else json.dumps(node))
        case 5:
            return json.loads("[" * 60 + "]" * 60)
        case _:
            return node[::-1] if isinstance(node, str | list) else str(node)


def _json(tree: object) -> str:
    return json.dumps(tree, default=str)


def garbled(content: bytes, rng: random.Random) -> bytes:
    """One in ten: cut off, or with a few bytes replaced."""
    if rng.random() > 0.1 or not content:
        return content
    if rng.random() < 0.5:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def write_file(stem: Path, rows: list, rng: random.Random) -> Path:
    """The rows as a file of one of the kinds that benchmarks read."""
    for old in stem.parent.glob(f"{stem.name}.*"):
        old.unlink()
    kind = rng.choice(
        (".jsonl", ".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet" if rng.random() < 0.2 else ".json")
    )
    path = stem.with_name(stem.name + kind)
    if kind == ".parquet":
        try:
            table = pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)])
            content = io.BytesIO()
            pyarrow.parquet.write_table(table, content)
            path.write_bytes(garbled(content.getvalue(), rng))
            return path
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):  # no column holds such values
            kind, path = ".json", stem.with_name(f"{stem.name}.json")
    lines = "\n".join(text(rng, _json(row)) if rng.random() < 0.03 else _json(row) for row in rows)
    whole = lines if ".jsonl" in kind else _json(rows)
    content = whole.encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")
    if kind.endswith(".gz"):
        content = gzip.compress(content, 1)
    path.write_bytes(garbled(content, rng))
    return path


def benchmark_rows(rng: random.Random) -> None:
    """Rows of every benchmark's format, in every kind of file."""
    name = rng.choice(list(BENCHMARKS))
    good = good_rows(name)
    rows = [mutated(rng.choice(good), rng) for _ in range(rng.randint(1, 3))]
    path = write_file(FOLDER / "rows", rows, rng)
    if name == "memalpha" and rng.random() < 0.3:
        side = text(rng, _json(SIDE)) if rng.random() < 0.2 else _json(mutated(SIDE, rng))
        path.with_suffix(".chunk_questions.jsonl").write_bytes(side.encode("utf-8", "surrogatepass"))
    cfg = DataConfig(eval_path=str(path), chunk_tokens=rng.choice((16, 64)), on_bad_row=rng.choice(("stop", "skip")))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the count of bad rows
            episodes = BENCHMARKS[name].load(cfg, "eval", 0)
    except UserError as error:
        assert "rows" in str(error)  # the file's name
        return
    check_episodes(episodes)


def check_episodes(episodes: Iterable[Episode]) -> None:
    """What everything behind a benchmark relies on."""
    for episode in episodes:
        assert episode.chunks and all(chunk.text.strip().encode() for chunk in episode.chunks)
        for question in (*episode.questions, *(q for chunk in episode.chunks for q in chunk.questions)):
            assert question.text.encode() and question.answers and all(a.encode() for a in question.answers)
            assert all(0 <= chunk < len(episode.chunks) for chunk in question.evidence)
        assert episode.id.encode()


@functools.cache
def good_files(source: str) -> dict[str, object]:
    """The files of a source of `finemem data build`, small: name -> its JSON value, its lines, or its text."""
    folder = FOLDER / f"raw_{source}"
    folder.mkdir(exist_ok=True)
    WRITERS[source](folder)
    files: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".gz")
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if name.endswith(".jsonl"):
            files[name] = [json.loads(line) for line in content.splitlines()][:8]
        elif name.endswith(".csv"):
            files[name] = list(csv.reader(io.StringIO(content.decode())))
        elif name.endswith(".json"):
            files[name] = _few(json.loads(content), source)
        else:
            files[name] = content.decode()[:300]
    if source == "text":
        asked = [{"question": "Who?", "answer": "Ada"}]
        files["documents.jsonl"] = [{"text": "Ada lives in Oslo. " * 9, "questions": asked}, {"text": "More."}]
    return files


def _few(tree: object, source: str) -> object:
    if source in ("squad", "conflict"):
        return tree | {"data": [article | {"paragraphs": article["paragraphs"][:2]} for article in tree["data"][:6]]}
    if source == "locomo":
        return [shortened(row) for row in tree]
    if source == "pubmedqa":
        return dict(list(tree.items())[:12])
    return tree[:8] if isinstance(tree, list) else tree


def raw_files(rng: random.Random) -> None:
    """The raw files of every source of `finemem data build`, and the corpus made of them."""
    source = rng.choice(list(WRITERS))
    files = good_files(source)
    folder = FOLDER / "raw"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    changed = rng.choice(list(files))
    for name, tree in files.items():
        if name == changed:
            tree = text(rng, tree) if isinstance(tree, str) else mutated(tree, rng)
        content = _raw(name, tree, rng).encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")
        is_zipped = rng.random() < 0.3
        content = gzip.compress(content, 1) if is_zipped else content
        (folder / (f"{name}.gz" if is_zipped else name)).write_bytes(
            garbled(content, rng) if name == changed else content
        )
    layout = rng.choice(("dialogue", "bare", "marked"))
    is_lines = (source, layout) == ("locomo", "bare")
    options = BuildOptions(
        source=source,
        input=str(folder),
        output=str(FOLDER / "built.parquet"),
        split=rng.choice(("train", "eval", "all")),
        chunk_tokens=rng.choice((8, 40)),
        chunks=rng.choice((0, 2)),
        instances=1,
        noise=rng.choice((0, 1)),
        label_level=rng.choice(("fine", "coarse")),
        layout=layout,
        answerable=rng.choice(("", "extractive", "spans")) if is_lines else "",
        line_tokens=rng.choice((0, 5)),
        held_out_every=rng.choice((0, 2)),
        max_answer_words=rng.choice((0, 5)),
        seed=rng.choice((0, 1)),
    )
    try:
        built = resolve("finemem_jax.corpora", source).episodes(options, token_counter(""))
        episodes = list(itertools.islice(built, 2))
        write_rows(episodes, options)
    except UserError as error:
        assert str(error)
        return
    assert len(list(memalpha.read_file(options.output))) == len(episodes)


def _raw(name: str, tree: object, rng: random.Random) -> str:
    if isinstance(tree, str):
        return tree
    if name.endswith(".csv") and isinstance(tree, list):
        table = io.StringIO()
        rows = [row if isinstance(row, list) else [row] for row in tree]
        csv.writer(table).writerows(rows)
        return table.getvalue()
    if name.endswith(".jsonl") and isinstance(tree, list):
        return "\n".join(text(rng, _json(row)) if rng.random() < 0.02 else _json(row) for row in tree)
    return _json(tree)
