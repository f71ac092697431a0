"""The tiny tokenizer: any text survives it, and the scaffolding of an operation costs one token a piece."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.config import PromptConfig, UserError
from finemem_jax.env import operations, prompts
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.memory import flat
from finemem_jax.types import Operation
from tests.fakes import flat_memory


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_as_it_was(tiny_tokenizer, text):
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    assert tiny_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_scaffolding_is_one_token_a_piece(tiny_tokenizer):
    written = operations.emit([Operation("memory_update", {"content": "Maya's dentist is Orlov", "id": "#12"})]) + "\n"
    tokens = tiny_tokenizer.tokenize(written)
    assert len(tokens) == 3 + 5 and tokens[-2].endswith("#12")


def test_saved_and_loaded_it_is_the_same_with_its_chat_template(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = tokenizers.load(str(tmp_path))
    tools = [spec.schema() for spec in flat.SPECS]
    messages = [{"role": "user", "content": "play me jazz => music"}]
    for tokenizer in (tiny_tokenizer, loaded):
        text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        assert "memory_insert" in text and text.endswith("<|im_start|>assistant\n")
    assert loaded.encode(text) == tiny_tokenizer.encode(text)
    assert tokenizers.stop_tokens(loaded) == (loaded.convert_tokens_to_ids("<|im_end|>"),)
    assert flat_memory().tokens() == 0


def test_a_hub_name_without_a_network_is_called_one(tmp_path):
    code = """if True:
        from finemem_jax.config import UserError
        from finemem_jax.env import tokenizer
        try:
            tokenizer.load("someone/else")
        except UserError as error:
            print(error)
    """
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    (said,) = done.stdout.strip().splitlines()
    assert said.startswith("no tokenizer at someone/else (no such folder here, so it was looked for on the hub): ")


def test_missing_tokenizers_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        tokenizers.load(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no tokenizer"):
        tokenizers.load(str(tmp_path))
    with pytest.raises(UserError, match="no embedded model 'nope'"):
        tokenizers.load("embedded:nope")


def test_the_thinking_switch_and_the_tools_reach_the_template(tiny_tokenizer, env):
    """Qwen3's templates read `enable_thinking`; the tools stand in the prompt whatever the template knows of them."""
    other = copy.deepcopy(tiny_tokenizer)
    other.chat_template = (
        "{{ messages[0].content }}{{ messages[-1].content }}{% if not enable_thinking %}<think>\n\n</think>{% endif %}"
    )
    for thinking in (False, True):
        cfg = PromptConfig(thinking=thinking)
        tokens, _ = prompts.render(other, env.specs, "the chunk", [], cfg, max_operations=7)
        text = other.decode(list(tokens))
        assert text.endswith("<think>\n\n</think>") == (not thinking)
        assert "Replace the content of an item" in text and '"required": ["content", "id"]' in text
        assert "the chunk" in text


def test_every_end_of_turn_token_stops_a_generation(tiny_tokenizer):
    """Llama 3 ends a turn with another token than its EOS."""
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["<|eot_id|>"], special_tokens=True)
    expected = {other.convert_tokens_to_ids("<|eot_id|>"), other.convert_tokens_to_ids("<|im_end|>")}
    assert set(tokenizers.stop_tokens(other)) == expected
