"""What a policy was trained with goes with its weights."""

from __future__ import annotations

import dataclasses
import json

import pytest

from finemem_jax.config import Config, EngineConfig, MemoryConfig, PromptConfig, RetrievalConfig, UserError
from finemem_jax.env.settings import FILE, SCHEMA, read_settings, settings_file, settings_of, with_settings_of

TRAINED = dataclasses.replace(
    Config(),
    memory=MemoryConfig(max_operations=3),
    prompt=PromptConfig(name="short", codec="lines", max_prompt_tokens=9000),
    retrieval=RetrievalConfig(k=2),
    engine=EngineConfig(cache_tokens=16384),
)


def write(folder, content):
    (folder / FILE).write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_folder_brings_its_memory_and_prompt_and_the_cache_holds_a_turn(tmp_path, capsys):
    write(tmp_path, settings_file(TRAINED)[FILE])
    found = with_settings_of(Config(), str(tmp_path))
    assert (found.memory, found.prompt) == (TRAINED.memory, TRAINED.prompt)
    assert found.retrieval == Config().retrieval  # the evaluation's own
    assert found.engine.cache_tokens == 9000 + TRAINED.prompt.max_completion_tokens
    assert "was trained with its own config.memory, config.prompt" in capsys.readouterr().err
    assert with_settings_of(found, str(tmp_path)) == found and not capsys.readouterr().err


def test_all_that_an_export_says_is_read_back(tmp_path):
    data = dataclasses.replace(TRAINED.data, chunk_tokens=160, layout="lines")
    cfg = dataclasses.replace(TRAINED, data=data)
    write(tmp_path, settings_file(cfg)[FILE])
    found = read_settings(tmp_path)
    assert found == settings_of(cfg)
    assert (found.chunking.tokens, found.chunking.layout, found.decoding.temperature) == (160, "lines", 0.0)
    assert json.loads((tmp_path / FILE).read_text())["schema"] == SCHEMA


def test_a_file_of_the_first_schema_is_read(tmp_path):
    """It had no number, and fields that came later have their defaults."""
    write(tmp_path, {"memory": {"max_operations": 3}, "prompt": {"codec": "lines"}, "method": {}})
    found = read_settings(tmp_path)
    assert (found.memory.max_operations, found.prompt.codec, found.chunking.tokens) == (3, "lines", 2048)


def test_a_folder_without_settings_changes_nothing(tmp_path):
    assert with_settings_of(Config(), str(tmp_path)) == with_settings_of(Config(), "Some/Model") == Config()


def test_no_path_of_this_machine_goes_with_the_weights():
    cfg = dataclasses.replace(TRAINED, retrieval=RetrievalConfig(name="dense", model="/home/me/encoder"))
    assert "/home/me" not in json.dumps(settings_file(cfg))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ({"prompt": {}}, "damaged"),
        ({**settings_file(TRAINED)[FILE], "prompt": {"name": "shirt"}}, "short"),
        ({**settings_file(TRAINED)[FILE], "memory": {"colour": "red"}}, "colour"),
        ({**settings_file(TRAINED)[FILE], "memory": 3}, "config.memory"),
        ({**settings_file(TRAINED)[FILE], "schema": 3}, "schema 3.*update"),
        ({**settings_file(TRAINED)[FILE], "colour": {}}, "colour"),
        ({**settings_file(TRAINED)[FILE], "chunking": {"tokens": 0}}, "chunking.tokens"),
        ({name: group for name, group in settings_file(TRAINED)[FILE].items() if name != "decoding"}, "decoding"),
    ],
)
def test_damaged_settings_are_one_line_that_names_the_file(tmp_path, content, why):
    write(tmp_path, content)
    with pytest.raises(UserError, match=why) as refused:
        with_settings_of(Config(), str(tmp_path))
    assert FILE in str(refused.value) and "\n" not in str(refused.value)
