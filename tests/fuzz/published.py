"""Files of the benchmarks that are read as they were published, and what judges say, mutated."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import random

from finemem_jax.config import DataConfig, UserError, plugins, resolve
from finemem_jax.types import JudgeRequest
from tests.benchmarks import published, test_personamem
from tests.fuzz.pieces import text
from tests.fuzz.places import own_folder
from tests.fuzz.rows import check_episodes, garbled, mutated, write_file

FOLDER = own_folder()
FORMS = (repr, json.dumps, lambda value: value)  # of a cell: a Python literal, JSON, a value
JUDGES = [resolve("finemem_jax.judges", name) for name in plugins("finemem_jax.judges")]
SAID = (
    *("yes", "no", "CORRECT", "WRONG", "Hallucination", "2", "0.5", "yes and no", "<think>no</think>yes", ""),
    *('{"evaluation_result": "Correct"}', '```json\n{"label": "WRONG"}\n```', '{"score": 2}', '{"score": 1e999}'),
    '{"accuracy_score": 2, "is_included_in_golden_memories": true}',
    '{"score": ' + "9" * 5000 + "}",
    '{"a": ' * 3000,
)


def published_file(rng: random.Random) -> None:
    """Each ends in episodes, or in a line that names a file."""
    name = rng.choice(("beam", "halumem", "convomem", "personamem"))
    with contextlib.suppress(OSError):
        for old in sorted(FOLDER.rglob("*.*")):
            old.unlink()
    if name == "personamem":
        path = _personamem(rng)
    elif name == "convomem":
        folder = FOLDER / rng.choice(("user_evidence", "preference_evidence", "other")) / "1_evidence"
        folder.mkdir(parents=True, exist_ok=True)
        item = published.convomem_item()
        form = rng.choice(
            ({"evidence_items": [item]}, [{"evidenceItems": [item], "conversations": [], "contextSize": 1}])
        )
        content = json.dumps(mutated(form, rng), default=str).encode("utf-8", "surrogatepass")
        path = folder / "rows.json"
        path.write_bytes(garbled(content, rng))
    else:
        make = {"beam": lambda: published.beam_row(rng.choice(FORMS)), "halumem": published.halumem_user}[name]
        path = write_file(FOLDER / "rows", [mutated(make(), rng) for _ in range(rng.randint(1, 2))], rng)
    cfg = DataConfig(
        name=name, path=str(path), chunk_tokens=rng.choice((16, 64)), on_bad_row=rng.choice(("stop", "skip"))
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the count of bad rows
            episodes = resolve("finemem_jax.benchmarks", name).load(cfg, "train" if name == "personamem" else "eval", 0)
    except UserError as error:
        assert str(FOLDER) in str(error) and len(str(error)) < 2000, error
        return
    check_episodes(episodes)


def _personamem(rng: random.Random):
    """A table of rows and the history that they name, one of them changed."""
    row, history = test_personamem.row("ann"), [{"role": "user", "content": "I would never eat walnuts"}] * 3
    match rng.randrange(4):
        case 0:
            history = mutated(rng.choice((history, {"chat_history": history})), rng)
        case 1:
            column = rng.choice(("user_query", "incorrect_answers", "related_conversation_snippet"))
            value = mutated([{"role": "user", "content": "I would never eat walnuts"}, "Nothing"], rng)
            row[column] = rng.choice((repr, json.dumps))(value)
        case _:
            row = {name: text(rng, value) if rng.random() < 0.2 else value for name, value in row.items()}
    (FOLDER / "data" / "short").mkdir(parents=True, exist_ok=True)
    encoded = json.dumps(history, default=str).encode("utf-8", "surrogatepass")
    (FOLDER / "data" / "short" / "ann.json").write_bytes(garbled(encoded, rng))
    table = io.StringIO(newline="")
    columns = [name for name in row if rng.random() < 0.98]
    writer = csv.DictWriter(table, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows([row, row | {"user_query": "And what else?"}])
    for name in ("train.csv", "val.csv"):
        (FOLDER / name).write_bytes(garbled(table.getvalue().encode("utf-8", "surrogatepass"), rng))
    return FOLDER


def judges_reply(rng: random.Random) -> None:
    """A score from 0 to 1 or none, with a label, of every protocol and task."""
    protocol = rng.choice(JUDGES)
    rubric = tuple("says so" for _ in range(rng.randint(0, 3)))
    request = JudgeRequest(
        text(rng, "Who?"),
        (text(rng, "Ada"),) * rng.randint(1, 2),
        text(rng),
        rubric=rubric,
        task=rng.choice(protocol.TASKS),
    )
    asked = protocol.conversations(request)
    replies = [None if rng.random() < 0.1 else text(rng, rng.choice(SAID)) for _ in asked]
    if rng.random() < 0.05:
        replies = [
            text(rng, rng.choice(SAID) + rng.choice(("{", '{"', "[", " ", "yes ")) * rng.randint(100, 5000))
        ] * len(asked)
    found = protocol.verdict(replies, request)
    assert found.score is None or (0 <= found.score <= 1 and math.isfinite(found.score))
    assert isinstance(found.label, str)
