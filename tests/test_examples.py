"""The examples run as their heads say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax import config
from tests.contracts import test_plugins as contracts

ROOT = Path(__file__).parents[1]


def run(name: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, f"examples/{name}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_memory_is_written_and_searched_without_jax():
    said = run("memory_search.py")
    assert "memory_delete #9: unknown id" in said
    assert "What does Jonas eat for dinner? -> Jonas eats noodles for dinner." in said


def test_a_reward_of_ones_own():
    said = run("custom_reward.py")
    brevity = {line.split(":")[0]: re.findall(r"\d\.\d+", line) for line in said.splitlines()}
    assert float(brevity["first_line"][0]) > float(brevity["everything"][0])


def test_a_manager_that_is_killed_goes_on():
    said = run("remembering_agent.py")
    first, second = said.split("the first process was killed")
    assert "session 2: 1 parts, 0 known already" in first and "session 3" not in first
    assert [f"session {number}: 1 parts, 1 known already" in second for number in (1, 2, 3)] == [True] * 3
    assert "? where is mina's office?" in second and "  = " in second and "(session " in second
    assert second.rstrip().endswith("items, nothing lost, nothing twice") and "the same 0 items" not in second


def test_the_reward_keeps_the_contract_of_its_folder(tmp_path, monkeypatch):
    import finemem_jax.rewards

    (tmp_path / "brevity.py").write_text((ROOT / "examples/custom_reward.py").read_text(encoding="utf-8"))
    monkeypatch.setattr(finemem_jax.rewards, "__path__", [*finemem_jax.rewards.__path__, str(tmp_path)])
    assert "brevity" in config.plugins("finemem_jax.rewards")
    contracts.test_reward_terms("brevity")
    monkeypatch.delitem(sys.modules, "finemem_jax.rewards.brevity")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_run_here(path):
    assert f'"{path.name}"' in Path(__file__).read_text(encoding="utf-8")
