"""The exercises of the warm start say what they are meant to teach."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from finemem_jax import main, sft
from finemem_jax.config import resolve
from finemem_jax.env import operations, scripted
from finemem_jax.memory import flat
from finemem_jax.policy import load_environment, load_tokenizer

MEMORY = re.compile(r"<memory>\n(.*)\n</memory>", re.DOTALL)
CHUNK = re.compile(r"<chunk>\n(.*)\n</chunk>", re.DOTALL)


@pytest.fixture(scope="module")
def exercises():
    cfg = main.load_config("configs/warm_start.py", ["--config.sft.pool=24"])
    env = load_environment(cfg, load_tokenizer(cfg))
    return sft.Exercises(cfg, env, resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0))


def test_an_update_exercise_names_the_item_that_each_line_supersedes(exercises):
    rng, tokenizer = np.random.default_rng(0), exercises._env.tokenizer
    places, beside = set(), 0
    for rollout in exercises._rollouts:
        example = exercises._updates(rollout, rng, 4, is_mixed=True)
        text, written = (tokenizer.decode(tokens) for tokens in (example.prompt, example.completion))
        lines = [json.loads(line) for line in MEMORY.search(text)[1].splitlines()]
        items = {line["id"]: line["content"] for line in lines}
        chunk = CHUNK.search(text)[1].splitlines()
        calls = operations.parse(written, flat.SPECS)
        assert [call.arguments["content"] for call in calls] == [
            line for line in chunk if line in {call.arguments["content"] for call in calls}
        ]
        inserts = [call.arguments["content"] for call in calls if call.name == "memory_insert"]
        assert not set(inserts) & set(items.values()) and not any(line.startswith("now ") for line in inserts)
        beside += len(inserts)
        updates = [call for call in calls if call.name != "memory_insert"]
        assert 1 <= len(updates) <= 4
        for update in updates:
            line, old = update.arguments["content"], items[update.target]
            assert update.name == "memory_update" and line in chunk and line.startswith("now ")
            assert line.split()[2:] == old.split()[1:]  # the same subject
            assert sum(item.split()[1:] == line.split()[2:] for item in items.values()) == 1
            places.add(list(items.values()).index(old))
    assert len(places) > 5  # the place in memory gives nothing away
    assert beside > 5


def test_a_permuted_exercise_copies_other_words_in_the_same_places(exercises):
    rng, tokenizer = np.random.default_rng(1), exercises._env.tokenizer
    example = exercises._updates(exercises._rollouts[0], rng, 4)
    permuted = exercises._permuted(example, rng)
    assert permuted != example and len(permuted.prompt) == len(example.prompt)
    pairs = set(zip(example.prompt + example.completion, permuted.prompt + permuted.completion, strict=True))
    assert any("#" in tokenizer.decode([old]) != tokenizer.decode([new]) for old, new in pairs)  # ids too
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})


def test_a_tokenizer_is_built_from_the_corpus_that_is_trained_on(tmp_path):
    import pyarrow
    import pyarrow.parquet

    lines = "the zeppelin landed => travel\nquokkas eat clover"
    questions = json.dumps([{"question": "when did the zeppelin land", "answer": "travel"}])
    row = {"instance_id": "0", "prompt": "", "chunks": json.dumps([lines]), "questions_and_answers": questions}
    row |= {"data_source": "made up", "metadata": "{}", "num_chunks": 1, "num_questions": 1}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "train.parquet")
    data = ["--config.data.name=memalpha", f"--config.data.path={tmp_path / 'train.parquet'}"]
    tokenizer = load_tokenizer(main.load_config("configs/real_text.py", data))
    assert tokenizer.tokenize("quokkas eat") == ["quokkas", "Ġeat"]
    assert tokenizer.decode(tokenizer.encode("unseen words, ünïcode")) == "unseen words, ünïcode"


def test_random_lines_stand_in_the_calls_for_lines_of_any_text(exercises):
    """Lines with quotes, which JSON escapes, and lines that are part of each other."""
    rng, tokenizer = np.random.default_rng(2), exercises._env.tokenizer
    lines = ['say "tea" => drink', "say", "say tea", "back\\slash"]
    example = exercises._example(lines, (), [scripted.insert(line) for line in reversed(lines)])
    randomised = exercises._randomised(example, lines, rng)
    text, written = (tokenizer.decode(tokens) for tokens in (randomised.prompt, randomised.completion))
    drawn = CHUNK.search(text)[1].split("\n")
    assert len(drawn) == len(lines) and not set(drawn) & set(lines)
    assert written.count("memory_insert") == len(lines)
    places = [written.index(f'"content": "{line}"') for line in drawn]
    assert places == sorted(places, reverse=True)
