"""What a policy was trained with goes with its weights."""

from __future__ import annotations

import dataclasses
import json

import pytest

from finemem_jax.config import Config, EngineConfig, MemoryConfig, PromptConfig, RetrievalConfig, UserError
from finemem_jax.env.settings import FILE, settings_file, with_settings_of

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
    ],
)
def test_damaged_settings_are_one_line_that_names_the_file(tmp_path, content, why):
    write(tmp_path, content)
    with pytest.raises(UserError, match=why) as refused:
        with_settings_of(Config(), str(tmp_path))
    assert FILE in str(refused.value) and "\n" not in str(refused.value)
