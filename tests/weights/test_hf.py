"""Folders written and read back, without torch: exactness, laziness, shards, atomicity, the hub's cache."""

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from finemem_jax import config
from finemem_jax.config import (
    AnswererConfig,
    Config,
    DataConfig,
    JudgeConfig,
    LoggingConfig,
    LoraConfig,
    ModelConfig,
    UserError,
    resolve,
)
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.nn.lora import has_adapters, init_adapters, without_adapters
from finemem_jax.nn.sharding import init_params, make_mesh
from finemem_jax.weights import hf, hf_tensors
from finemem_jax.weights.hf import load_pretrained, save_adapters, save_pretrained
from finemem_jax.weights.safetensor_files import Checkpoint

needs_8_devices = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8"
)

FSDP, ALL_AXES = {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}


def _random(family="qwen3", **differences):
    module = resolve("finemem_jax.models", family)
    model = module.Model(dataclasses.replace(module.PRESETS["tiny"], num_layers=2, **differences))
    return model, init_params(model, jax.random.key(0))


@pytest.fixture(scope="module")
def untied():
    return _random(tie_word_embeddings=False, eos_token_ids=(5, 7), pad_token_id=7)


@pytest.fixture(scope="module")
def folder(untied, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "model"
    save_pretrained(path, *untied, max_shard_bytes=100_000, metrics={"accuracy": 0.5}, run_config={"seed": 3})
    return path


@pytest.fixture(scope="module")
def adapted(folder):
    return load_pretrained(folder, lora=LoraConfig(rank=1))


def _assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: x.dtype, b)


def test_a_second_import_has_the_same_config_and_bits(untied, folder):
    model, params = load_pretrained(folder)
    assert model.cfg == untied[0].cfg
    _assert_equal(params, untied[1])


def test_the_folder_is_whole(folder):
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "generation_config.json", "README.md", "model.safetensors.index.json"} <= names
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for file in folder.glob("*.safetensors"):
        content = load_file(file)
        assert sum(x.nbytes for x in content.values()) <= 100_000 or len(content) == 1
        assert all(index["weight_map"][name] == file.name for name in content)
        tensors |= content
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [5, 7]
    card = (folder / "README.md").read_text()
    assert "| accuracy | 0.5 |" in card and '"seed": 3' in card
    assert [file for file in folder.parent.iterdir() if file != folder] == []  # nothing left beside it


def test_the_model_card_says_how_it_was_trained_and_not_where(untied, tmp_path):
    cfg = Config(
        name="secret-name",
        model=ModelConfig(path="/home/me/secret-model", tokenizer="secret/tokenizer"),
        data=DataConfig(path="/data/secret-file"),
        answerer=AnswererConfig(url="http://secret-host:8000/v1", key_variable="SECRET_KEY", cache="/secret-cache"),
        judge=JudgeConfig(model="secret-judge"),
        logging=LoggingConfig(wandb_project="secret-project"),
    )
    run = config.to_dict(cfg)
    run["rewards"]["secret_file"] = "/etc/secret-rewards"  # a field that comes into a shown group later
    tokenizer = tokenizers.load("embedded:warm_start")
    model = type(untied[0])(dataclasses.replace(untied[0].cfg, vocab_size=len(tokenizer)))
    params = init_params(model, jax.random.key(0))
    save_pretrained(tmp_path / "out", model, params, tokenizer, run_config=run)
    card = (tmp_path / "out" / "README.md").read_text()
    shown = json.loads(card.split("```json")[1].split("```")[0])
    assert shown["train"]["group_size"] == 8 and shown["loss"]["kl_estimator"] == "k3" and shown["seed"] == 0
    assert shown["rewards"]["weights"]["chunk_qa"] == 0.5 and shown["prompt"]["codec"] == "qwen"
    for file in (tmp_path / "out").iterdir():
        content = file.read_bytes().lower()
        assert b"secret" not in content and b"/home/" not in content and str(tmp_path).encode() not in content, file


def test_every_slice_is_read_once_and_none_is_large(folder, untied, monkeypatch):
    monkeypatch.setattr(hf_tensors, "CHUNK_BYTES", 10_000)
    sizes = []
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda *a: sizes.append((x := read(*a)).nbytes) or x)
    _, params = load_pretrained(folder)
    _assert_equal(params, untied[1])
    assert max(sizes) <= 10_000
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert total <= sum(sizes) < 1.3 * total  # the last chunk of a tensor may overlap the one before


@needs_8_devices
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        (FSDP, "bfloat16"),
        (ALL_AXES, "float32"),
        pytest.param(FSDP, "float32", marks=pytest.mark.slow),
        pytest.param(ALL_AXES, "bfloat16", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_shards_on_a_mesh_hold_the_same_bits(folder, untied, sizes, dtype, monkeypatch, tmp_path):
    """Each mesh and each type once; the other two pairs of them are slow."""
    monkeypatch.setattr(hf_tensors, "CHUNK_BYTES", 50_000)
    mesh = make_mesh(**sizes)
    model, params = load_pretrained(folder, dtype=dtype, mesh=mesh)
    kernel = params["layers"]["attention"]["o_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size * mesh.shape["fsdp"] * mesh.shape["tensor"] == kernel.size
    _assert_equal(params, jax.tree.map(lambda x: x.astype(dtype), untied[1]))
    save_pretrained(tmp_path / "again", model, params)
    _assert_equal(load_pretrained(tmp_path / "again", dtype=dtype)[1], params)
    model = type(model)(dataclasses.replace(model.cfg, lora=LoraConfig(rank=2)))
    adapter = init_adapters(model, params, jax.random.key(1), mesh)["layers"]["attention"]["q_proj"]["lora"]
    assert adapter["a"].sharding.spec == PartitionSpec(None, "fsdp", None)


def test_bfloat16_is_stored_and_loaded_as_it_is(tmp_path):
    model, params = _random("llama3", dtype="bfloat16", param_dtype="bfloat16")
    save_pretrained(tmp_path / "out", model, params)
    assert {x.dtype.name for x in load_file(tmp_path / "out" / "model.safetensors").values()} == {"bfloat16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    again, loaded = load_pretrained(tmp_path / "out", dtype="bfloat16")
    assert again.cfg == model.cfg
    _assert_equal(loaded, params)
    mixed, master = load_pretrained(tmp_path / "out", dtype="bfloat16", param_dtype="float32")
    assert (mixed.cfg.dtype, mixed.cfg.param_dtype) == ("bfloat16", "float32")
    _assert_equal(master, jax.tree.map(lambda x: x.astype(jnp.float32), params))


def test_a_tied_checkpoint_may_repeat_its_table_but_not_contradict_it(tmp_path):
    model, params = _random("qwen2")
    save_pretrained(tmp_path / "out", model, params)
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, file)
    _assert_equal(load_pretrained(tmp_path / "out")[1], params)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(UserError, match="ties the embeddings"):
        load_pretrained(tmp_path / "out")


def test_adapters_are_added_on_import_and_merged_on_export(folder, untied, tmp_path):
    lora = LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "up_proj"))
    model, params = load_pretrained(folder, lora=lora, seed=1)
    assert model.cfg.lora == lora and has_adapters(params)
    _assert_equal(without_adapters(params), untied[1])
    _assert_equal(init_adapters(model, untied[1], jax.random.key(1)), params)
    params["layers"]["attention"]["q_proj"]["lora"]["b"] += 0.5
    save_pretrained(tmp_path / "merged", model, params)
    _, merged = load_pretrained(tmp_path / "merged")
    q = params["layers"]["attention"]["q_proj"]
    expected = np.asarray(q["kernel"]) + np.asarray(q["lora"]["a"]) @ np.asarray(q["lora"]["b"]) * (4.0 / 2)
    np.testing.assert_allclose(merged["layers"]["attention"]["q_proj"]["kernel"], expected, atol=1e-6)
    assert np.abs(expected - q["kernel"]).max() > 0.01
    save_adapters(tmp_path / "adapters", model, params, base_model=str(folder))
    saved = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(saved[name], np.asarray(q["lora"]["a"][1]).T)
    assert len(saved) == 2 * 2 * 2
    with pytest.raises(UserError, match="no adapters to export"):
        save_adapters(tmp_path / "none", *untied)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("{here}/models/mine", "mine"),
        ("{here}/models/mine/", "mine"),
        ("{here}/gone/since", "since"),
        ("models/mine", "mine"),  # there is such a folder here, so it is no hub name
        ("./models/mine", "mine"),
        ("models", "models"),
        ("", ""),
    ],
)
def test_adapters_name_their_base_model_without_the_path_to_it(
    adapted, folder, tmp_path, monkeypatch, tiny_tokenizer, given, written
):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    tokenizer = copy.copy(tiny_tokenizer)
    tokenizer.name_or_path = str(folder)
    save_adapters(tmp_path / "out", *adapted, base_model=given.format(here=tmp_path), tokenizer=tokenizer)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == written
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    assert not any(str(hidden) in text for text in texts for hidden in (tmp_path, folder))


def test_an_export_replaces_an_earlier_one_and_nothing_else(untied, tmp_path):
    path = tmp_path / "out"
    save_pretrained(path, *untied, max_shard_bytes=100_000)
    save_pretrained(path, *untied)
    assert [file.name for file in path.glob("*.safetensors")] == ["model.safetensors"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="was not written by an export"):
        save_pretrained(tmp_path / "thesis", *untied)
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_an_export_that_dies_leaves_the_earlier_one(untied, tmp_path, monkeypatch):
    path = tmp_path / "out"
    save_pretrained(path, *untied)
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def dies(*_):
        assert list(path.parent.glob(".out.partial-*/model.safetensors"))  # the weights were written by then
        raise KeyboardInterrupt

    monkeypatch.setattr(hf, "_generation_config", dies)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(path, untied[0], jax.tree.map(lambda x: x + 1, untied[1]))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_hub_name_is_found_in_the_local_cache_while_offline(folder, tmp_path):
    repo = tmp_path / "hub" / "models--someone--memory"
    revision = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repo / "snapshots" / revision)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    code = """if True:
        from finemem_jax.config import UserError
        from finemem_jax.weights.hf import find_folder
        print(find_folder("someone/memory"))
        try:
            find_folder("someone/else")
        except UserError as error:
            print(error)
    """
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, error = done.stdout.strip().splitlines()
    assert found.endswith(revision)
    assert error.startswith("someone/else: no such folder, and not found on the hub or in its cache")


def test_the_tokenizer_and_its_chat_template_travel_with_the_model(untied, tmp_path):
    words = {"<unk>": 0, "remember": 1, "milk": 2, "<end>": 3}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {{ tools[0].name }} <end>{% endfor %}"
    save_pretrained(tmp_path / "out", *untied, tokenizer)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = {"conversation": [{"role": "user", "content": "remember"}], "tools": [{"name": "milk"}]}
    ids = again.apply_chat_template(**talk, return_dict=False)
    assert ids == tokenizer.apply_chat_template(**talk, return_dict=False) == [1, 2, 3]
    assert again.eos_token == "<end>"
