"""Recorded turns: what a line may hold, what it becomes, and the one line that says what is wrong with one."""

from __future__ import annotations

import dataclasses
import json

import pytest

from finemem_jax import main
from finemem_jax.baselines import _scripted as scripted
from finemem_jax.config import UserError, resolve
from finemem_jax.env import operations
from finemem_jax.imitation.exercises import expert_rollouts
from finemem_jax.imitation.traces import Trace, read_traces, record, render_traces
from finemem_jax.loading import load_environment, load_tokenizer
from finemem_jax.types import MemoryItem, Operation

GOOD = {
    "chunk": "now tea ann likes\nrain",
    "memory": [{"id": "#3", "content": "coffee ann likes"}, {"id": "#5", "content": "sun"}],
    "operations": [
        {"name": "memory_update", "arguments": {"content": "now tea ann likes", "id": "#3"}},
        {"name": "memory_insert", "arguments": {"content": 'rain | "hail" \u2028 é'}},
    ],
    "episode": "e",
    "step": 2,
    "reward": 0.5,
}


@pytest.fixture(scope="module")
def cfg():
    return main.load_config("configs/quickstart.py", [])


@pytest.fixture(scope="module")
def env(cfg):
    return load_environment(cfg, load_tokenizer(cfg))


def written(tmp_path, *lines):
    path = tmp_path / "traces.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def test_a_trace_comes_back_as_it_was_written(tmp_path):
    plain = {"chunk": "a", "operations": [{"name": "memory_skip"}]}
    first, second = read_traces(written(tmp_path, json.dumps(GOOD, ensure_ascii=False), "", plain, ""))
    assert second == Trace("a", (), (scripted.SKIP,))
    assert [item.id for item in first.memory] == ["#3", "#5"] and len(first.operations) == 2
    again = read_traces(written(tmp_path, record(first, episode="e", sample=3, reward=None)))
    assert again == [first]


@pytest.mark.parametrize("codec", ["qwen", "lines", "llama3", "function_args"])
def test_a_trace_is_shown_by_the_prompt_and_spelled_by_the_codec_of_the_config(cfg, tmp_path, codec):
    room = {"max_prompt_tokens": 2000, "max_completion_tokens": 200}
    cfg = dataclasses.replace(cfg, prompt=dataclasses.replace(cfg.prompt, codec=codec, name="full", **room))
    env = load_environment(cfg, load_tokenizer(cfg))
    (trace,) = read_traces(written(tmp_path, GOOD))
    (example,), left_out = render_traces([trace], env)
    assert not left_out
    prompt, text = env.tokenizer.decode(example.prompt), env.tokenizer.decode(example.completion[:-1])
    assert "now tea ann likes\nrain" in prompt and "coffee ann likes" in prompt
    assert operations.parse(text, env.specs, codec=codec) == trace.operations
    assert example.completion[-1] == env.tokenizer.eos_token_id


def test_a_recorded_turn_of_the_expert_is_the_example_that_the_expert_is(cfg, env):
    """What is in view is rendered again, token for token."""
    episodes = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0)
    seen = 0
    for rollout in expert_rollouts(cfg, env, [episodes[i] for i in range(4)]):
        for before, step, chunk in zip(rollout.steps, rollout.steps[1:], rollout.episode.chunks[1:], strict=False):
            items = before.memory_after.items
            if any(not outcome.ok for outcome in step.outcomes):
                continue
            (example,), _ = render_traces([Trace(chunk.text, items, step.operations)], env)
            assert (example.prompt, example.completion) == (step.prompt_tokens, step.completion.tokens)
            seen += bool(items)
    assert seen > 3


WRONG = [
    ("{", "not JSON"),
    ("null", "a line must be an object, not null"),
    ("[" * 100_000, "not JSON"),
    ({**GOOD, "prompt": "x"}, 'a line has no field "prompt"; it has chunk, memory, operations, question, episode'),
    ({"chunk": "a"}, "a line lacks operations"),
    ({**GOOD, "chunk": "  "}, 'chunk must be a text that is not empty, not "  "'),
    ({**GOOD, "chunk": "\ud83d"}, "chunk is not valid Unicode"),
    ({**GOOD, "step": "two"}, 'step is "two"'),
    ({**GOOD, "memory": {"#1": "x"}}, "memory must be a list"),
    ({**GOOD, "memory": [{"id": "#1"}]}, "an item of memory lacks content"),
    ({**GOOD, "memory": [{"id": "#1", "content": "x"}] * 2}, 'two items of memory have the id "#1"'),
    ({**GOOD, "operations": []}, "operations is empty; a turn that keeps nothing is a memory_skip"),
    ({**GOOD, "operations": ["skip"]}, 'an operation must be an object, not "skip"'),
    ({**GOOD, "operations": [{"arguments": {}}]}, "an operation lacks name"),
    ({**GOOD, "operations": [{"name": "x", "arguments": {"id": 3}}]}, "arguments must be an object of strings"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_line_that_is_no_trace_is_named_in_one_line(tmp_path, line, message):
    with pytest.raises(UserError) as error:
        read_traces(written(tmp_path, GOOD, line))
    assert f"traces.jsonl, line 2: {message}" in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_traces_is_refused(tmp_path):
    for content in (b"\n \n", b"\xff\xfe"):
        (tmp_path / "traces.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"holds no traces|not UTF-8 at byte 0"):
            read_traces(tmp_path / "traces.jsonl")
    with pytest.raises(UserError, match="No such file"):
        read_traces(tmp_path / "absent.jsonl")


def test_what_the_environment_would_refuse_is_left_out_and_counted(cfg, env):
    item = MemoryItem("#1", "old", 0)
    insert, update = scripted.insert("new"), scripted.update(item, "new")

    def why(trace):
        examples, left_out = render_traces([trace], env)
        assert not examples
        (reason,) = left_out
        return reason

    assert why(Trace("a", (), (insert,) * 5)) == "more operations than config.memory.max_operations=4"
    assert why(Trace("a", (), (update,))) == "it names an item that is not in its memory"
    assert why(Trace("a", (), (Operation("forget"),))) == 'no tool "forget" in config.memory.name=flat'
    assert "missing argument 'content'" in why(Trace("a", (), (Operation("memory_insert"),)))
    assert why(Trace("a", (), (scripted.insert("word " * 30),))).startswith(
        "an item longer than config.memory.max_item"
    )
    assert why(Trace("word " * 400, (), (insert,))).startswith("a chunk too long for config.prompt.max_prompt_tokens")
    crowded = (item, *(MemoryItem(f"#{i}", "word " * 20, 0) for i in range(2, 22)))
    assert why(Trace("a", crowded, (update,))).startswith("no room for an item it names in config.prompt.max_prompt")
    four = tuple(scripted.insert("word " * n) for n in (19, 20, 21, 22))
    assert why(Trace("a", (), four)).startswith("longer than config.prompt.max_completion_tokens=64")
    assert render_traces([Trace("a", (item,), (update, insert))], env)[1].total() == 0
