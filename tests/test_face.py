"""`import finemem_jax`: public names, loaded when used; the host's reach no jax."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import finemem_jax

WITHOUT_JAX = """
import sys

# what the small install of docs/python.md leaves out
BLOCKED = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorstore", "matplotlib", "tensorboardX"}
BLOCKED |= {"pyarrow", "jaxtyping", "rouge_score"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not installed")


sys.meta_path.insert(0, Blocker())
import finemem_jax

assert [name for name in sys.modules if name.startswith("finemem_jax.")] == []
for name in finemem_jax.HOST:
    getattr(finemem_jax, name)
from finemem_jax import BM25, apply, config, emit, evidence_rewards, parse, resolve, score
from finemem_jax import Operation

flat = resolve("finemem_jax.memory", "flat")
settings = config.MemoryConfig()
memory = flat.create(settings, lambda text: len(text.split()))
written = parse(emit([Operation("memory_insert", {"content": "Mina's office is in Oslo."})]), flat.SPECS)
memory, outcomes = apply(memory, written, 0, settings, ())
assert [outcome.status for outcome in outcomes] == ["applied"]
[(best, _)] = BM25([item.text for item in memory.items]).search("Where is Mina's office?", k=1)
assert score("substring_match", memory.items[best].text, ["Oslo"]) == 1.0
assert evidence_rewards([1.0], [[0]], 1, beta=1.0).tolist() == [1.0]
episode = resolve("finemem_jax.benchmarks", "diary").load(config.DataConfig(), "eval", 0)[0]
assert episode.questions
try:
    finemem_jax.Engine
except ImportError as error:
    print(error)
"""


def test_what_the_host_names_need_is_there_without_jax():
    done = subprocess.run([sys.executable, "-c", WITHOUT_JAX], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is not installed" in done.stdout  # the names of the device do need it


def test_every_public_name_is_what_its_module_holds():
    for name in finemem_jax.__all__:
        assert getattr(finemem_jax, name) is not None and name in dir(finemem_jax)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        finemem_jax.nothing  # noqa: B018
    assert finemem_jax.load_config("quickstart", []).name == "quickstart"


def test_the_stub_says_the_same_names_of_the_same_modules():
    stub = ast.parse(Path(finemem_jax.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    said = {
        alias.name: node.module.removeprefix("finemem_jax.")
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert said == {**finemem_jax.HOST, **finemem_jax.DEVICE}
