"""Episodes as long as BEAM's longest, through the command, in a process whose memory is measured."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys

import pytest

from finemem_jax.config import Config, resolve
from finemem_jax.env.environment import all_questions, replay
from finemem_jax.types import Chunk, Episode, Point, Question
from tests import fakes
from tests.benchmarks.published import beam_row
from tests.fake_server import FakeServer


def test_memories_on_the_way_are_kept_only_where_somebody_looks(env):
    question = Question("what is a?", ("b",), "substring_match")
    chunks = tuple(Chunk(f"a{i} is b", i, points=(Point("x"),) if i == 3 else None) for i in range(6))
    told = Episode("e", "x", chunks, (dataclasses.replace(question, after=1), question))
    answerer = resolve("finemem_jax.answerers", "extractive").create(Config().answerer)
    write = fakes.writer("store_all")
    whole, sparing = (
        replay(dataclasses.replace(env, keeps_memories=keeps), told, all_questions(told), answerer.submit, write)()
        for keeps in (True, False)
    )
    assert whole.answers == sparing.answers and whole.memory == sparing.memory
    kept = []
    for step in sparing.steps:
        try:
            assert step.memory_after.items == whole.steps[step.index].memory_after.items
            kept.append(step.index)
        except RuntimeError as error:
            assert "was not kept" in str(error)
    assert kept == [1, 3, 5]


_RUN = """
import json, resource, sys, time
from finemem_jax import main
started = time.process_time()
assert main.main(json.loads(sys.argv[1])) == 0
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"mib": used.ru_maxrss / 1024, "cpu_seconds": time.process_time() - started}))
"""


@pytest.mark.slow
def test_ten_million_tokens_are_evaluated_in_bounded_memory(tmp_path):
    rng = random.Random(0)
    words = [f"w{i}" for i in range(20_000)]
    turns = [
        {"role": "user" if i % 2 else "assistant", "content": f"turn {i}: {' '.join(rng.choices(words, k=200))}"}
        for i in range(50_000)
    ]
    row = beam_row(json.dumps, chat=[turns[i : i + 100] for i in range(0, len(turns), 100)])
    (tmp_path / "10M.jsonl").write_text(json.dumps(row) + "\n")
    with FakeServer() as server:
        server.reply = lambda asked: '{"score": 1}'
        arguments = [
            "evaluate",
            "--baselines-only",
            f"--workdir={tmp_path / 'run'}",
            "--config.data.name=beam",
            f"--config.data.eval_path={tmp_path / '10M.jsonl'}",
            "--config.eval.baselines=('store_all', 'recent_k')",
            "--config.mesh.data=1",
            "--config.judge.name=endpoint",
            "--config.judge.prompt=beam",
            f"--config.judge.url={server.url}",
            "--config.judge.model=m",
        ]
        done = subprocess.run(
            [sys.executable, "-c", _RUN, json.dumps(arguments)], capture_output=True, text=True, timeout=3600
        )
    assert done.returncode == 0, done.stderr[-2000:]
    table = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert table["store_all"]["memory_items"] >= 50_000 and table["recent_k"]["memory_items"] == 5
    assert table["store_all"]["accuracy"] == table["recent_k"]["accuracy"] == 1.0
    used = json.loads(done.stdout.strip().splitlines()[-1])
    print(used)
    assert used["mib"] < 3 * 1024
