"""Bad input: one line that names what is wrong."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finemem_jax.config import UserError, resolve
from finemem_jax.nn.sharding import init_params
from finemem_jax.weights.hf import load_pretrained, save_pretrained


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
