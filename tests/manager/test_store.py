"""The store: a log that only grows, transactions that are whole, and no text that becomes anything else."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys

import pytest

from finemem_jax.exits import UserError
from finemem_jax.manager.store import Line, Moved, Store

HOSTILE = "'); DROP TABLE log; -- \x1b[31m $(rm -rf /) `x` \ud800 \0 ../../etc \u202e"


def turn(user, number, *texts):
    lines = [Line(user, "read", turn=number, text="what was said", digest=f"d{number}", source="s")]
    lines += [Line(user, "insert", turn=number, item=f"#{number}-{i}", text=text) for i, text in enumerate(texts)]
    lines[-1] = Line(**{**fields(lines[-1]), "state": json.dumps({"turns": number + 1, "memory": {}})})
    return lines


def fields(line):
    return {name: getattr(line, name) for name in Line.__dataclass_fields__}


def test_what_is_written_is_read_back_whatever_it_says(tmp_path):
    with_store = Store(tmp_path / "m.sqlite")
    written = with_store.append(HOSTILE, 0, turn(HOSTILE, 0, HOSTILE, "plain"))
    assert [line.number for line in written] == [1, 2, 3]
    store = Store(tmp_path / "m.sqlite")
    assert store.lines(HOSTILE) == written and store.users() == [HOSTILE]
    held, state, position = store.held(HOSTILE)
    assert [line.text for line in held] == [HOSTILE, "plain"] and state["turns"] == 1 and position == 3
    assert store.has_read(HOSTILE, "s", "d0") and not store.has_read("other", "s", "d0")
    assert store.lines("other") == [] and store.position("other") == 0


def test_the_log_only_grows_and_people_can_read_the_views(tmp_path):
    store = Store(tmp_path / "m.sqlite")
    store.append("mina", 0, turn("mina", 0, "Mina lives in Rome.", "Mina has a cat."))
    store.append("mina", 3, [Line("mina", "update", item="#0-0", text="Mina lives in Oslo.")])
    store.append("mina", 4, [Line("mina", "delete", item="#0-1")])
    rows = sqlite3.connect(tmp_path / "m.sqlite")
    assert rows.execute("SELECT user, item, text FROM memory").fetchall() == [("mina", "#0-0", "Mina lives in Oslo.")]
    assert rows.execute("SELECT verb FROM history").fetchall() == [("insert",), ("insert",), ("update",), ("delete",)]
    assert rows.execute("SELECT text FROM readings").fetchall() == [("what was said",)]
    for change in ("UPDATE log SET text = 'x'", "DELETE FROM log"):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            rows.execute(change)


def test_who_knows_less_than_the_log_writes_nothing(tmp_path):
    one, other = Store(tmp_path / "m.sqlite"), Store(tmp_path / "m.sqlite")
    one.append("mina", 0, turn("mina", 0, "first"))
    with pytest.raises(Moved):
        other.append("mina", 0, turn("mina", 0, "second"))
    assert [line.text for line in other.held("mina")[0]] == ["first"]
    other.append("jonas", 0, turn("jonas", 0, "his own"))  # another user's log is no concern


def test_a_log_goes_out_as_json_and_comes_in_as_it_was(tmp_path):
    store = Store(tmp_path / "m.sqlite")
    for user in (HOSTILE, "mina"):
        store.append(user, 0, turn(user, 0, HOSTILE, "plain"))
    exported = list(store.export_lines())
    assert all(line.isascii() and "\n" not in line for line in exported)
    copy = Store(tmp_path / "copy.sqlite")
    assert copy.import_lines(exported) == 6
    assert [fields(line) | {"number": 0} for user in store.users() for line in store.lines(user)] == [
        fields(line) | {"number": 0} for user in copy.users() for line in copy.lines(user)
    ]
    assert len(list(store.export_lines("mina"))) == 3
    with pytest.raises(UserError, match="not merged"):
        copy.import_lines(exported)


@pytest.mark.parametrize(
    "line",
    ["[]", "{", "{}", '{"user": 1}', "[" * 5000, json.dumps(fields(Line("u", "read")) | {"number": 2**70}),
     json.dumps(fields(Line("u", "read")) | {"text": 3}), json.dumps(fields(Line("u", "read")) | {"state": "[]"})],
)  # fmt: skip
def test_what_is_no_log_is_one_line_and_changes_nothing(tmp_path, line):
    store = Store(tmp_path / "m.sqlite")
    good = json.dumps(fields(Line("u", "read")))
    with pytest.raises(UserError, match=r"x.jsonl line 2 is no line of a memory's log") as refused:
        store.import_lines([good, line], "x.jsonl")
    assert "\n" not in str(refused.value) and store.users() == []


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("not a database, but long enough to be looked at" * 50), "no sqlite file"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE other (a)"), "no memory store of finemem"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: Store(path)._rows.execute("PRAGMA user_version=9"), "version 9"),
    ],
)
def test_a_file_that_is_no_store_is_left_alone(tmp_path, make, why):
    make(tmp_path / "m.sqlite")
    with pytest.raises(UserError, match=why) as refused:
        Store(tmp_path / "m.sqlite")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no folder"):
        Store(tmp_path / "nowhere" / "m.sqlite")
    with pytest.raises(UserError, match="only local paths"):
        Store("s3://bucket/m.sqlite")


WRITER = """
import sys
from tests.manager.test_store import Moved, Store, turn
store, name, count = Store(sys.argv[1]), sys.argv[2], int(sys.argv[3])
written = 0
while written < count:
    found, state, position = store.held("mina")
    try:
        store.append("mina", position, turn("mina", state.get("turns", 0), f"{name} {written}", "and more"))
    except Moved:
        continue
    written += 1
    print(written, flush=True)
"""


def writer(path, name, count):
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_write_one_memory_and_a_killed_one_leaves_whole_turns(tmp_path):
    """Neither loses a turn nor writes one twice; of the one that is killed, what it reported is there."""
    path = tmp_path / "m.sqlite"
    Store(path).close()
    steady, killed = writer(path, "steady", 30), writer(path, "killed", 100_000)
    reported = 0
    while reported < 20:
        reported = int(killed.stdout.readline())
    assert steady.wait() == 0
    killed.send_signal(signal.SIGKILL)
    reported = max([reported, *(int(line) for line in killed.stdout.read().split())])
    killed.wait()
    steady.stdout.close()
    killed.stdout.close()
    store = Store(path)
    lines = store.lines("mina")
    assert [line.turn for line in lines] == [turn for turn in range(len(lines) // 3) for _ in range(3)]
    assert [line.verb for line in lines] == ["read", "insert", "insert"] * (len(lines) // 3)
    texts = [line.text for line in lines if line.verb == "insert" and line.text != "and more"]
    assert [text for text in texts if text.startswith("steady")] == [f"steady {i}" for i in range(30)]
    of_killed = [text for text in texts if text.startswith("killed")]
    assert of_killed == [f"killed {i}" for i in range(len(of_killed))] and len(of_killed) in (reported, reported + 1)
