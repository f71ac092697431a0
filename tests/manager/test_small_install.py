"""The install for agents (`packaging/manager`) in a new environment: no jax, no torch, and the manager works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USE = """
import importlib.util, sys
from finemem_jax import Manager
assert not [name for name in ("jax", "torch", "flax") if importlib.util.find_spec(name)]
with Manager(sys.argv[1], "m.sqlite", {"folder": sys.argv[2], "served_name": "m"}) as manager:
    print([change.text for change in manager.read("Anna lives in Oslo.", user="u").applied])
    print([item.text for item in manager.recall("Where does Anna live?", user="u")])
    print(manager.answer("Where does Anna live?", user="u").text)
"""


@pytest.fixture(scope="module")
def small_install(tmp_path_factory) -> Path:
    """Python of a new environment with the install for agents; packages come from the index."""
    root = tmp_path_factory.mktemp("small")
    for name in ("finemem_jax", "packaging"):
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / name, root / "source" / name, ignore=ignored)
    shutil.copy(ROOT / "setup.cfg", root / "source" / "setup.cfg")
    subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
    python = root / "venv/bin/python"
    wanted = f"{root / 'source/packaging/manager'}[mcp]"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=True, cwd=root)
    return python


@pytest.mark.slow
def test_the_install_for_agents_reads_recalls_talks_and_serves_without_jax_and_torch(
    small_install, folder, server, tmp_path
):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)

    def run(*words, **given) -> str:
        command = [str(small_install), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, **given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", USE, server.url, folder).splitlines()[:2] == ["['Anna lives in Oslo.']"] * 2
    options = [f"--model={server.url}", f"--folder={folder}", "--name=m", "--store=m.sqlite", "--user=u"]
    assert "> insert #2" in run("-m", "finemem_jax", "chat", *options, input="Jonas likes cake.\n/quit\n")

    said = [{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": "memory_recall", "arguments": {"question": "What does Jonas like?"}}}]  # fmt: skip
    client = subprocess.Popen(
        [str(small_install.with_name("finemem")), "mcp", *options],
        cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with client:
        client.stdin.write("".join(json.dumps(message) + "\n" for message in said))
        client.stdin.flush()
        replies = [json.loads(client.stdout.readline()) for _ in range(2)]
        client.stdin.close()
    assert "Jonas likes cake." in replies[1]["result"]["content"][0]["text"]
