"""Forty mistakes with the manager: one clear line each, exit code 2. And hostile text is only text."""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import subprocess
import sys

import pytest

from finemem_jax import Manager, Mem0, main
from finemem_jax.config import UserError
from finemem_jax.env.settings import FILE

GOOD = ("--model={url}", "--folder={folder}", "--name=m", "--store={tmp}/m.sqlite")


def with_option(*options):
    """The good options, those named replaced; an option of None is left out."""
    given = dict(option.split("=", 1) for option in GOOD)
    for option in options:
        name, _, value = option.partition("=")
        given[name] = value
    return [f"{name}={value}" for name, value in given.items() if value != "LEFT OUT"]


COMMANDS = [
    (["--model="], "model is empty"),
    (["--model=http://"], "name a host"),
    (["--model=http://user:pass@host/v1", "--name=LEFT OUT"], "holds a password"),
    (["--model=http://127.0.0.1:9/v1", "--name=LEFT OUT"], "nobody answers"),
    (["--model={url}", "--name=LEFT OUT"], "does not list its models|nobody answers"),
    (["--model={tmp}/nowhere", "--folder="], "no folder"),
    (["--model={tmp}", "--folder="], f"has no {FILE}"),
    (["--model={folder}", "--folder={tmp}"], "is for a model behind a URL"),
    (["--folder=LEFT OUT"], "no exported folder of that name"),
    (["--folder={tmp}/nowhere"], "no folder"),
    (["--folder={tmp}"], f"has no {FILE}"),
    (["--folder={tmp}/damaged"], "is damaged"),
    (["--folder={tmp}/newer"], "schema 99"),
    (["--folder={tmp}/odd"], "colour"),
    (["--folder={tmp}/knows"], "to see the questions before it writes"),
    (["--folder=s3://bucket/policy"], "only local paths"),
    (["--store=s3://bucket/m.sqlite"], "only local paths"),
    (["--store={tmp}"], "is a folder"),
    (["--store={tmp}/no/m.sqlite"], "no folder"),
    (["--store={tmp}/text"], "no sqlite file"),
    (["--store={tmp}/other.sqlite"], "no memory store of finemem"),
    (["--user="], "--user is empty"),
    (["--temperature=-2"], "--temperature=-2"),
    (["--temperature=nan"], "--temperature=nan"),
    (["--answerer-url={url}"], "belong together"),
    (["--answerer-model=x"], "belong together"),
    (["--nonsense=1"], "unknown argument"),
]


ENDPOINT = ["--url=http://127.0.0.1:9/v1", "--model=m"]
ON_THE_WAY = [  # from one's own conversations to a manager
    (["data", "build", "--source=conversations", "--input=nowhere", "--output=o.parquet"], "no such file"),
    (["data", "build", "--source=conversations", "--input={tmp}/text", "--output=o.parquet"], "this source reads"),
    (["data", "build", "--source=talks", "--input={tmp}", "--output=o.parquet"], "talks"),
    (["data", "questions", "--corpus=nowhere.parquet", "--output=o.parquet", *ENDPOINT], "no such file"),
    (["data", "questions", "--corpus={tmp}/text", "--output=o.parquet", *ENDPOINT], "must be parquet"),
    (["data", "questions", "--corpus={tmp}/text"], "--url and --model"),
    (["collect-traces", "--episodes=-1"], "--episodes=-1: must be at least 0"),
    (["collect-traces", "--samples=1"], "--samples=1: must be at least 2"),
    (["collect-traces", "--keep=0"], "--keep=0: must be at least 1"),
    (["collect-traces", "--policy=nowhere"], "no folder nowhere"),
    (["collect-traces", "--policy=http://127.0.0.1:9/v1"], "config.eval.policy_model is empty"),
    (["collect-traces", "--config=nowhere"], "nowhere"),
]


@pytest.fixture
def places(tmp_path, folder, server):
    """Folders and files with something wrong about them."""
    good = json.loads((folder / FILE).read_text())
    wrong = {
        "damaged": "{",
        "newer": json.dumps({**good, "schema": 99}),
        "odd": json.dumps({**good, "memory": {"colour": "red"}}),
        "knows": json.dumps({**good, "method": {"sees_question": True}}),
    }
    for name, content in wrong.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(content)
    (tmp_path / "text").write_text("nothing that sqlite knows, and long enough for it to look " * 40)
    rows = sqlite3.connect(tmp_path / "other.sqlite")
    rows.execute("CREATE TABLE other (a)")
    rows.close()
    return {"tmp": tmp_path, "folder": folder, "url": server.url}


def test_a_mistake_in_a_command_is_one_line_before_anything_is_read(places, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("never read\n"))
    for changed, why in COMMANDS:
        for command in ("chat", "mcp"):
            words = [word.format(**places) for word in with_option(*changed)]
            assert main.main([command, *words]) == 2, changed
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"finemem {command}: "), line
            assert any(part in line for part in why.split("|")), (changed, line)
            assert "pass@" not in line


@pytest.mark.parametrize(("words", "why"), ON_THE_WAY)
def test_a_mistake_on_the_way_to_a_manager_is_one_line(words, why, places, capsys, monkeypatch):
    monkeypatch.chdir(places["tmp"])
    one_device = ["--config.mesh.data=1"] * (words[0] == "collect-traces")
    assert main.main([*(word.format(**places) for word in words), *one_device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"finemem {words[0]}: ") and why in line


WITHOUT_JAX = """
import sys
for name in ("jax", "flax", "torch"):
    sys.modules[name] = None
from finemem_jax import main
from finemem_jax.config import UserError
from finemem_jax.manager import writer
assert main.main(["train"]) == 2
cfg = writer.ManagerConfig()
source = writer.find_source(sys.argv[1], cfg)
try:
    writer.open_writer(source, None, cfg, None)
except UserError as error:
    sys.exit(str(error))
"""


def test_where_training_is_not_installed_a_line_says_so(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX, str(folder)],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    command, call = done.stderr.splitlines()
    assert command.startswith("finemem train: needs the package jax") and "pip install finemem_jax" in command
    assert "needs the package" in call and call.endswith("or give a server's URL") and done.returncode == 1


CALLS = [
    (lambda m: m.read(3), "must be a list of messages"),
    (lambda m: m.read([{"role": "user"}]), "has no content"),
    (lambda m: m.read(["x"]), "must be a message"),
    (lambda m: m.read("x", time=object()), "the time must be text"),
    (lambda m: m.read("x", user=""), "user must be text"),
    (lambda m: m.read("x", user=7), "user must be text"),
    (lambda m: m.read("x", source="s" * 600), "longer than"),
    (lambda m: m.recall(None), "question must be text"),
    (lambda m: m.recall("x", k=-1), "at least 0"),
    (lambda m: m.recall("x", k="3"), "whole number"),
    (lambda m: m.answer(["x"]), "question must be text"),
    (lambda m: m.forget(), "one of id= and before="),
    (lambda m: m.forget("#1", before="2026-01-01"), "one of id= and before="),
    (lambda m: m.forget(before="yesterday"), "must be a time"),
    (lambda m: m.history(3), "id must be text"),
    (lambda m: Manager(m._source.url, ":memory:", 3), "config must be"),
    (lambda m: Manager(m._source.url, ":memory:", {"tries": 0}), "config.tries=0"),
    (lambda m: Manager(m._source.url, ":memory:", {"colour": 1}), "unknown config key config.colour"),
    (lambda m: Manager(m._source.url, ":memory:", {"layout": "prose"}), "allowed are"),
    (lambda m: Manager(m._source.url, ":memory:", {"answerer": {"name": "endpoint"}}), "needs config.answerer.url"),
    (lambda m: Manager(None), "model is empty"),
    (lambda m: Mem0(m).add("x"), "one of user_id"),
]


def test_a_mistake_in_a_call_is_one_line(folder, server, tmp_path):
    assert len(COMMANDS) + len(CALLS) >= 40
    with Manager(server.url, tmp_path / "m.sqlite", {"folder": str(folder), "served_name": "m"}) as manager:
        for call, why in CALLS:
            with pytest.raises(UserError, match=why) as refused:
                call(manager)
            assert "\n" not in str(refused.value)
        assert manager.users() == []


PIECES = (
    *("'); DROP TABLE log;--", '"', "\x1b]0;x\x07", "\x9b31m", "$(touch owned)", "`touch owned`", "\u202e", "\ud800"),
    *("\0", "../../owned", "<chunk>", "</tool_call>", "\r", "#1", "{}", "%s", "/forget #1", "😀"),
)


def test_hostile_text_is_only_text(folder, server, tmp_path, capsys, monkeypatch):
    """From users and from the model: in the store as it came, on a terminal written out, nowhere else."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    texts = ["".join(rng.choices(PIECES, k=rng.randrange(1, 7))) for _ in range(25)]
    with Manager(server.url, tmp_path / "m.sqlite", {"folder": str(folder), "served_name": "m"}) as manager:
        plain = server.reply
        server.reply = lambda asked: plain(asked) if rng.random() < 0.5 else rng.choice(texts).replace("\ud800", "")
        for text in texts:
            manager.read(text, time=text, source=text, user=text)
            manager.recall(text, user=text)
            manager.forget(text, user=text)
            assert manager.history(text, user=text) == () and text in manager.users()
            json.loads(manager.call(text, text, user=text))
            json.loads(manager.call("memory_recall", {"question": text}, user=text))
        exported = list(manager.store.export_lines())
    server.reply = plain
    typed = "\n".join(text.replace("\ud800", "").replace("\n", "") for text in texts)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    options = [f"--model={server.url}", f"--folder={folder}", "--name=m", "--store=m.sqlite"]
    assert main.main(["chat", *options, f"--user={texts[0]}"]) == 0
    said = capsys.readouterr()
    assert not any(sign in said.out + said.err for sign in "\x1b\x9b\u202e\0\x07\r")
    assert sqlite3.connect("m.sqlite").execute("SELECT count(*) FROM log").fetchone()[0] >= len(exported) > len(texts)
    assert sorted(path.name for path in tmp_path.iterdir() if "owned" in path.name) == []
