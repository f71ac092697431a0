"""Bad input: one line that names what is wrong."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finemem_jax.config import UserError, resolve
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.nn.sharding import init_params
from finemem_jax.weights.hf import load_pretrained, save_pretrained
from finemem_jax.weights.safetensor_files import INDEX

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    module = resolve("finemem_jax.models", "qwen3")
    cfg = dataclasses.replace(module.PRESETS["tiny"], num_layers=1, vocab_size=40)
    path = tmp_path_factory.mktemp("whole") / "model"
    save_pretrained(path, module.Model(cfg), init_params(module.Model(cfg), jax.random.key(0)))
    return path


@pytest.fixture
def folder(whole, tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    for file in whole.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def _refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        load_pretrained(path)
    assert "\n" not in str(caught.value)


def _edit_config(folder, **differences):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | differences))


def _edit_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_folder(tmp_path):
    _refused(tmp_path / "nowhere", "nowhere: no such folder, and not a hub name")


def test_missing_and_broken_config(folder):
    (folder / "config.json").write_text("{")
    _refused(folder, r"config\.json is not JSON")
    (folder / "config.json").unlink()
    _refused(folder, r"config\.json is missing")


def test_unsupported_model_type_lists_the_supported(folder):
    _edit_config(folder, model_type="mamba")
    _refused(folder, "model_type 'mamba' is not supported; supported: llama, qwen2, qwen3")


@pytest.mark.parametrize(
    ("differences", "feature"),
    [
        ({"use_sliding_window": True, "sliding_window": 128}, "sliding-window"),
        ({"layer_types": ["sliding_attention"]}, "sliding_attention"),
        ({"num_experts": 8}, "mixture of experts"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn'.*supported: default, llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "per layer type"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "llama3 needs low_freq_factor"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": None}, "hidden_size must be a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unsupported_feature_is_named(folder, differences, feature):
    _edit_config(folder, **differences)
    _refused(folder, feature)


@pytest.mark.parametrize(
    ("differences", "line"),
    [
        ({"vocab_size": -40}, "vocab_size must be a whole number from 1 to 16777216, got -40"),
        ({"hidden_size": True}, "hidden_size must be a whole number from 1 to 16777216, got True"),
        ({"hidden_size": 64.0}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers must be a whole number from 1 to 1000, got 1000000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number from 1"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number from 1"),
        ({"num_key_value_heads": -2}, "num_key_value_heads must be a whole number from 1"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple of num_key_value_heads=3"),
        ({"head_dim": 33}, "head_dim=33 must be even"),
        ({"head_dim": "32"}, "head_dim must be a whole number from 2 to 16777216, got '32'"),
        ({"head_dim": None, "hidden_size": 66}, "head_dim must be a whole number"),
        ({"intermediate_size": []}, r"intermediate_size must be a whole number from 1 to 16777216, got \[\]"),
        ({"rope_theta": None}, "rope_theta must be a number above 1 and below 1e\\+15, got None"),
        ({"rope_theta": float("nan")}, "rope_theta must be a number above 1 and below 1e\\+15, got nan"),
        ({"rope_theta": float("inf")}, "rope_theta must be a number"),
        ({"rope_theta": "1e4"}, "rope_theta must be a number"),
        ({"rope_theta": 1e-300}, "rope_theta must be a number above 1 and below"),  # 0 in float32
        ({"rope_theta": 10**400}, "rope_theta must be a number"),
        ({"rope_scaling": [1]}, r"rope_scaling must be an object, got \[1\]"),
        ({"rope_scaling": {"rope_type": ["llama3"]}}, r"rope type \['llama3'\], which is not supported"),
        ({"rope_scaling": LLAMA3 | {"factor": -8.0}}, "factor must be a number above 0.001"),
        ({"rope_scaling": LLAMA3 | {"factor": 1e-300}}, "factor must be a number above 0.001"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": None}}, "low_freq_factor must be a number"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor=4 must be below high_freq_factor=4"),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0}},
            "original_max_position_embeddings must be",
        ),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number above 1e-30 and below 1, got nan"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number"),
        ({"rms_norm_eps": 1e-300}, "rms_norm_eps must be a number above 1e-30"),
        ({"initializer_range": -1}, "initializer_range must be a number"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings must be a whole number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, got 'yes'"),
        ({"attention_bias": 1}, "attention_bias must be true or false, got 1"),
        ({"eos_token_id": 40}, r"eos_token_id must be ids from 0 to 39 \(vocab_size - 1\), or none, got 40"),
        ({"eos_token_id": [1, None]}, r"eos_token_id must be ids from 0 to 39.*got \[1, None\]"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id must be ids"),
        ({"bos_token_id": "<s>"}, "bos_token_id must be a whole number"),
        ({"layer_types": "full_attention"}, "layer_types must be a list of names"),
        ({"layer_types": [["full_attention"]]}, "layer_types must be a list of names"),
        ({"hidden_act": ["silu"]}, r"hidden_act \['silu'\]"),
        ({"model_type": ["qwen3"]}, r"model_type \['qwen3'\] is not supported"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_every_field_of_a_config_is_read_strictly(folder, differences, line):
    _edit_config(folder, **differences)
    _refused(folder, rf"{re.escape(str(folder))}: .*{line}")


def test_what_published_configs_leave_out_or_write_for_none_is_read(folder):
    _edit_config(folder, pad_token_id=-1, bos_token_id=None, use_sliding_window=None, attention_bias=None)
    config = json.loads((folder / "config.json").read_text())
    for key in ("num_key_value_heads", "rms_norm_eps", "initializer_range", "rope_theta", "hidden_act"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 2}))
    cfg = load_pretrained(folder)[0].cfg
    assert (cfg.pad_token_id, cfg.rope_theta, cfg.rms_norm_eps) == (None, 10000.0, 1e-6)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"null", b"[]"], ids=["deep", "bytes", "null", "list"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", INDEX])
def test_a_file_that_is_no_json_object_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    _refused(folder, re.escape(name))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", INDEX])
def test_a_folder_of_a_files_name_is_named(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    _refused(folder, re.escape(name))


@pytest.mark.parametrize(
    "content",
    [
        {"model": []},
        {"model": {"vocab": 5}},
        {"model": {"vocab": {"a": "0"}}},
        {"model": {"vocab": {"a": -1}}},
        {"added_tokens": {"id": 1}},
        {"added_tokens": [5]},
        {"added_tokens": [{"content": "a"}]},
    ],
    ids=str,
)
def test_a_tokenizer_of_another_kind_is_named(folder, content):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    _refused(folder, r"tokenizer\.json: ")


@pytest.mark.parametrize("name", ["../model.safetensors", "/dev/null", "", 5, None, ["model.safetensors"]])
def test_an_index_names_files_of_its_folder(folder, name):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name, "b": "model.safetensors"}}))
    _refused(folder, "is not a safetensors index|which is no safetensors file of its folder")


def test_a_tensor_in_two_files_is_refused(folder):
    shutil.copy(folder / "model.safetensors", folder / "second.safetensors")
    names = {"a": "model.safetensors", "b": "second.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    _refused(folder, r"second\.safetensors: tensor .* is in model\.safetensors, too")


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[" * 100_000, b'{"model": {"type": "BPE", "vocab": 5}}', b'{"version": "1.0"}']
)
def test_a_tokenizer_that_its_library_cannot_read_is_one_line(tmp_path, content):
    shutil.copytree(tokenizers.embedded_path("warm_start"), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match="no tokenizer at ") as caught:
        tokenizers.load(str(tmp_path / "model"))
    assert "\n" not in str(caught.value)


def test_missing_tensor(folder):
    _edit_tensors(folder, lambda tensors: tensors.pop("model.norm.weight"))
    _refused(folder, r"tensor model\.norm\.weight is missing")


def test_extra_tensor(folder):
    _edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0.extra": np.zeros(2, np.float32)}))
    _refused(folder, r"tensor model\.layers\.0\.extra is not part of a qwen3 model")


def test_wrong_shape_gives_both(folder):
    _edit_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": np.zeros(65, np.float32)}))
    _refused(folder, r"model\.norm\.weight has shape \[65\], config.json asks for \[64\]")


def test_an_integer_tensor_is_refused(folder):
    _edit_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": np.zeros(64, np.int8)}))
    _refused(folder, r"model\.norm\.weight has dtype I8; supported: F32, BF16, F16")


def test_truncated_safetensors(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    _refused(folder, r"model\.safetensors is not a whole safetensors file")


def test_a_shard_that_the_index_names_is_missing(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _refused(folder, r"model-00001-of-00002\.safetensors is missing")


def test_no_safetensors_at_all(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _refused(folder, "only safetensors checkpoints are read")


def test_a_tokenizer_larger_than_the_embedding(folder, whole, tmp_path):
    vocab = {f"t{i}": i for i in range(40)}
    added = [{"id": 40, "content": "<extra>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": added}))
    _refused(folder, "the tokenizer has 41 tokens, the embedding only 40 rows")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    model, params = load_pretrained(folder)

    class Tokenizer:
        def __len__(self):
            return 41

    with pytest.raises(UserError, match="41 tokens"):
        save_pretrained(tmp_path / "out", model, params, Tokenizer())
    assert not (tmp_path / "out").exists()
