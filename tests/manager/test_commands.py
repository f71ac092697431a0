"""`finemem chat`, `finemem mcp`, and mem0's names: the same verbs for people, programs and models."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import sys

import pytest

from finemem_jax import Manager, Mem0, main
from finemem_jax.config import UserError


@pytest.fixture
def options(folder, server, tmp_path):
    return [f"--model={server.url}", f"--folder={folder}", "--name=m", f"--store={tmp_path / 'm.sqlite'}"]


def test_one_talks_and_sees_what_is_written_and_recalled(options, monkeypatch, capsys):
    typed = "Anna lives in \x1b[31mOslo.\nWhere does Anna live?\n/items\n/answer Where does Anna live?\n/history #1\n"
    typed += "/forget #1\n/forget #9\n/recall Anna\n/nonsense\n/user jonas\n/items\n/help\n/quit\nnever read\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main.main(["chat", *options]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].startswith("> insert #1 [") and lines[0].endswith("user: Anna lives in \\x1b[31mOslo.")
    assert lines[1].startswith("< #1 [")  # recalled for the question
    assert "  forgotten: #1" in lines and "  nothing is known" in lines and "! no command /nonsense" in said.out
    assert "  forgotten: nothing, there is no such item" in lines
    assert "\x1b" not in said.out + said.err and "never read" not in said.out and "/quit" in said.out


def test_a_client_of_mcp_reads_recalls_and_is_told_of_its_mistakes(options, tmp_path):
    """Its own client, over the standard input and output of a process."""
    pytest.importorskip("mcp_types", reason="pip install 'finemem_jax[mcp]'")
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    async def use():
        command = ["-m", "finemem_jax.main", "mcp", *options, "--user=mina"]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"}
        started = StdioServerParameters(command=sys.executable, args=command, env=environment)
        async with Client(stdio_client(started)) as client:
            tools = (await client.list_tools()).tools
            text = await client.call_tool("memory_read", {"text": "Anna lives in Oslo.", "source": "s"})
            found = await client.call_tool("memory_recall", {"question": "Where does Anna live?"})
            wrong = await client.call_tool("memory_recall", {"question": "x", "user": "jonas"})
            return tools, text, found, wrong

    tools, text, found, wrong = asyncio.run(use())
    assert [tool.name for tool in tools][:2] == ["memory_read", "memory_recall"]
    assert json.loads(text.content[0].text)["changes"][1]["verb"] == "insert" and not text.is_error
    assert json.loads(found.content[0].text)[0]["text"] == "Anna lives in Oslo."
    assert wrong.is_error and "no argument 'user'" in wrong.content[0].text
    rows = sqlite3.connect(tmp_path / "m.sqlite").execute("SELECT user, text FROM memory").fetchall()
    assert rows == [("mina", "Anna lives in Oslo.")]


def as_mem0_is_used(memory, search):
    """A script that runs against mem0 and against ours: what it sees, without ids and times."""
    added = memory.add("Anna moved to Oslo.", user_id="mina")["results"]
    memory.add("Jonas likes cake.", user_id="mina")
    memory.add("A secret of somebody else.", user_id="jonas")
    filters = {"user_id": "mina"}
    seen = [[result["memory"] for result in added], [result["event"] for result in added]]
    seen.append(search(memory, "Where did Anna move?", filters)["results"][0]["memory"])
    seen.append(sorted(result["memory"] for result in memory.get_all(filters=filters)["results"]))
    seen.append(memory.get(added[0]["id"])["memory"])
    memory.delete(added[0]["id"])
    seen.append([result["memory"] for result in memory.get_all(filters=filters)["results"]])
    seen.append(memory.get(added[0]["id"]))
    with pytest.raises(ValueError, match="not found"):
        memory.delete(added[0]["id"])
    return seen


EXPECTED = [
    ["Anna moved to Oslo."],
    ["ADD"],
    "Anna moved to Oslo.",
    ["Anna moved to Oslo.", "Jonas likes cake."],
    "Anna moved to Oslo.",
    ["Jonas likes cake."],
    None,
]


def test_a_program_written_for_mem0_runs(folder, server, tmp_path):
    with Manager(server.url, tmp_path / "m.sqlite", {"folder": str(folder), "served_name": "m"}) as manager:
        memory = Mem0(manager)
        found = as_mem0_is_used(memory, lambda memory, query, filters: memory.search(query, filters=filters, top_k=3))
        assert found == EXPECTED
        (left,) = memory.get_all(user_id="mina")["results"]
        assert [change["event"] for change in memory.history(left["id"])] == ["ADD"]
        for wrong in (
            lambda: memory.add("x"),
            lambda: memory.add("x", user_id="u", infer=False),
            lambda: memory.add("x", user_id="u", metadata={"a": 1}),
            lambda: memory.search("x", filters={"colour": "red"}),
            lambda: memory.search("x", user_id="u", rerank=True),
            lambda: memory.delete("nowhere"),
        ):
            with pytest.raises(UserError) as refused:
                wrong()
            assert "\n" not in str(refused.value)
        memory.delete_all(user_id="mina")
        assert memory.get_all(user_id="mina") == {"results": []}
