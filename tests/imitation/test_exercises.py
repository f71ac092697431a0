"""The exercises of the warm start say what they are meant to teach."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.baselines import _scripted as scripted
from finemem_jax.config import UserError, resolve
from finemem_jax.env import operations
from finemem_jax.imitation.exercises import Exercises, expert_rollouts
from finemem_jax.loading import load_environment, load_tokenizer
from finemem_jax.memory import flat
from finemem_jax.types import Chunk, Episode, Question

MEMORY = re.compile(r"<memory>\n(.*)\n</memory>", re.DOTALL)
CHUNK = re.compile(r"<chunk>\n(.*)\n</chunk>", re.DOTALL)


@pytest.fixture(scope="module")
def exercises():
    cfg = main.load_config("configs/warm_start.py", ["--config.sft.pool=24"])
    env = load_environment(cfg, load_tokenizer(cfg))
    return Exercises(cfg, env, resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0))


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
            line, old = update.arguments["content"], items[update.arguments["id"]]
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


def test_a_pretrained_model_is_shown_what_the_expert_wrote_and_nothing_else(exercises):
    """No noise and no exercises beside it, unless the config asks for them."""
    cfg, env = exercises._cfg, exercises._env
    cfg = dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, path="embedded:warm_start"),
        sft=dataclasses.replace(cfg.sft, permuted=-1.0, copy_mix=-1.0, update_mix=0.0, pool=6),
    )
    episodes = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0)
    rollouts = expert_rollouts(cfg, env, [episodes[i] for i in range(6)])
    written = {(step.prompt_tokens, step.completion.tokens) for rollout in rollouts for step in rollout.steps}

    def drawn(**settings):
        own = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, **settings))
        stream = Exercises(own, env, episodes).stream("expert", np.random.default_rng(0))
        return {(e.prompt, e.completion) for e, _ in zip(stream, range(60), strict=False)}

    assert drawn() <= written and len(drawn()) > 10
    assert drawn(permuted=0.5) - written and drawn(copy_mix=0.5) - written
    from_random = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, path=""))
    stream = Exercises(from_random, env, episodes).stream("expert", np.random.default_rng(0))
    assert {(e.prompt, e.completion) for e, _ in zip(stream, range(60), strict=False)} - written


def test_an_unknown_stage_trains_nothing(exercises):
    with pytest.raises(UserError, match="'copy_lnes' is no stage; known: copy_random, copy_lines"):
        next(exercises.stream("copy_lnes", np.random.default_rng(0)))


def test_the_exercises_are_written_in_the_codec_of_the_prompt(exercises):
    cfg = dataclasses.replace(
        exercises._cfg,
        prompt=dataclasses.replace(exercises._cfg.prompt, codec="function_args", max_prompt_tokens=512),
        sft=dataclasses.replace(exercises._cfg.sft, permuted=0.0, pool=4),
    )
    env = load_environment(cfg, exercises._env.tokenizer)
    own = Exercises(cfg, env, resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0))
    for example, _ in zip(own.stream("copy_lines", np.random.default_rng(3)), range(9), strict=False):
        text = env.tokenizer.decode(example.completion[:-1])
        calls = operations.parse(text, flat.SPECS, codec="function_args")
        assert calls and not any(call.error for call in calls)
        assert [c.arguments["content"] for c in calls] == CHUNK.search(env.tokenizer.decode(example.prompt))[1].split(
            "\n"
        )


def test_exercises_teach_what_they_say():
    cfg = main.load_config("configs/quickstart.py", ["--config.sft.permuted=0"])
    policy_tokenizer = load_tokenizer(cfg)
    env = load_environment(cfg, policy_tokenizer)
    lines = ("a b c", "d e f", "g h", "i j")
    episode = Episode("x", "s", (Chunk("\n".join(lines), 0),), (Question("d", ("f",)),))
    exercises = Exercises(cfg, env, [episode])

    def decoded(stage):
        example = next(exercises.stream(stage, np.random.default_rng(0)))
        assert example.completion[-1] == policy_tokenizer.eos_token_id
        return policy_tokenizer.decode(example.prompt), policy_tokenizer.decode(example.completion)

    prompt, completion = decoded("copy_lines")
    assert all(line in prompt and f'"{line}"' in completion for line in lines)
    prompt, completion = decoded("copy_random")
    assert completion.count("memory_insert") == len(lines) and not any(f'"{line}"' in completion for line in lines)


def test_the_expert_is_refused_where_memory_has_other_tools(exercises):
    """It would teach calls that are none. Recorded turns need no expert."""
    cfg = dataclasses.replace(exercises._cfg, memory=dataclasses.replace(exercises._cfg.memory, name="overwrite"))
    env = dataclasses.replace(exercises._env, memory=cfg.memory)
    with pytest.raises(UserError, match=r"config\.memory\.name=overwrite has none of the tools .*stages=\('traces',\)"):
        expert_rollouts(cfg, env, [])
    recorded = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, stages=("traces",)))
    example = next(exercises.stream("expert", np.random.default_rng(0)))
    assert next(Exercises(recorded, env, [], [example]).stream("traces", np.random.default_rng(0))) == example
