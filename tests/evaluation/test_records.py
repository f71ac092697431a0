"""A record says what a rollout did, and from its records the memory can be followed step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finemem_jax import evaluate
from finemem_jax.config import MemoryConfig
from finemem_jax.evaluation.records import group_record, sample_record, write_heldout
from finemem_jax.files import read_lines
from finemem_jax.types import Completion, Operation, Rollout, Step
from tests import fakes
from tests.reporting import runs


def replay(steps):
    """The memory after the last step, by the rule in records.py: {id: text} in order."""
    memory = {}
    for step in steps:
        for item in step["removed"]:
            del memory[item]
        memory |= {item["id"]: item["text"] for item in step["written"]}
    return memory


def played(*written):
    """A rollout that writes the given operations, one tuple a step, to a memory of two items that evicts."""
    memory = fakes.flat_memory(MemoryConfig(max_items=2, overflow="evict_oldest"))
    steps = []
    for t, operations in enumerate(written):
        outcomes = []
        for operation in operations:
            memory, outcome = memory.apply(operation, t)
            outcomes.append(outcome)
        completion = Completion((2,), (-1.0,), "stop")
        steps.append(Step(t, (1,), completion, "raw", tuple(operations), tuple(outcomes), memory, chunk=t))
    return Rollout(fakes.episode(["x"] * len(steps)), 0, 0, tuple(steps), ())


def insert(text):
    return Operation("memory_insert", {"content": text})


def test_memory_can_be_followed_through_inserts_updates_deletes_and_evictions():
    rollout = played(
        [insert("a"), insert("b")],
        [Operation("memory_update", {"id": "#1", "content": "a2"})],
        [Operation("memory_delete", {"id": "#2"}), insert("c")],
        [insert("d"), insert("d"), Operation("memory_skip")],  # evicts #1; the second is a duplicate
    )
    record = json.loads(json.dumps(sample_record(rollout)))
    for t, step in enumerate(rollout.steps):
        assert replay(record["steps"][: t + 1]) == {item.id: item.text for item in step.memory_after.items}
    assert record["steps"][1]["written"] == [{"id": "#1", "step": 1, "text": "a2", "kind": ""}]
    assert record["steps"][2]["removed"] == ["#2"]
    last = record["steps"][3]["operations"]
    assert [o["status"] for o in last] == ["applied", "duplicate", "skipped"] and last[0]["evicted"] == ["#1"]
    assert [step["memory_tokens"] for step in record["steps"]] == [2, 2, 2, 2]


def test_a_group_keeps_every_samples_rewards_and_advantages():
    group = [runs.rollout(0, sample=s) for s in range(2)]
    terms = {"format": np.arange(6.0).reshape(2, 3)}
    record = group_record(group, terms, terms["format"] * 2, -terms["format"])
    assert [s["rewards"]["format"] for s in record["samples"]] == [[0, 1, 2], [3, 4, 5]]
    assert record["samples"][1]["total"] == [6, 8, 10] and record["samples"][1]["advantage"] == [-3, -4, -5]
    answer = record["samples"][0]["answers"][1]
    assert (answer["question"], answer["score"], answer["step"]) == ("what is 1 of 0?", 1.0, None)
    assert [a["failure"] for a in record["samples"][0]["answers"]] == ["answering", "", "", ""]  # it was retrieved
    assert answer["retrieved"] == [{"id": "#2", "step": 1, "text": "fact 1 of 0", "bm25": 1.5}]
    assert record["samples"][0]["answers"][-1]["step"] == 1  # a question about chunk 1


@pytest.mark.parametrize("limit", [0, 2, 9])
def test_an_evaluation_writes_the_first_rollouts_of_every_policy(limit, tmp_path):
    rollouts = [runs.rollout(e) for e in range(3)]
    write_heldout(tmp_path, "after", {"T=1": rollouts, "a/b": rollouts}, limit)
    names = {path.name for path in tmp_path.glob("heldout/*")}
    assert names == (set() if not limit else {"episodes.jsonl", "after T=1.jsonl", "after a-b.jsonl"})
    if limit:
        episodes = read_lines(tmp_path / "heldout" / "episodes.jsonl")
        assert [e["episode"] for e in episodes] == [f"episode-{i}" for i in range(min(limit, 3))]
        assert episodes[0]["chunks"][2].startswith("chunk 2 of episode 0")


@pytest.mark.parametrize("damage", ["", "null", '{"T=1": 3}', '{"T=1": {"0": "x"}}', "\x00"])
def test_damaged_seconds_end_no_evaluation(tmp_path, damage):
    path = tmp_path / "evaluation" / "seconds.json"
    path.parent.mkdir()
    path.write_text(damage)
    evaluate._keep_seconds(tmp_path, "T=1", 1, 0.5)
    assert json.loads(path.read_text()) == {"T=1": {"1": 0.5}}
