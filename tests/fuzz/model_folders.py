"""Model folders with something changed in one of their files: fields of every JSON, headers, templates, whole files."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import random
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from finemem_jax.config import PromptConfig, UserError, resolve
from finemem_jax.env import prompts
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.memory import flat
from finemem_jax.nn.layers import rope_frequencies
from finemem_jax.nn.sharding import init_params
from finemem_jax.weights import hf
from tests.fuzz import pieces
from tests.fuzz.places import own_folder

FOLDER = own_folder()
FAMILIES = ("llama3", "qwen2", "qwen3")
NUMBERS = (-1, 0, 1, 2, 3, 7, 10**6, 2**31, 2**63, 10**400, -0.0, 0.5, 1e-300, 1e308, math.nan, math.inf, -math.inf)
OTHERS = ("", "x", "silu", "yarn", "llama3", True, False, None, [], {}, [1, 2], [None], {"a": 1}, [[[]]], "9" * 5000)
# What published files say and ours do not: the readers of these fields are tried, too.
EXTRA = {
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "layer_types": ["full_attention"],
    "sliding_window": None,
    "use_sliding_window": False,
    "num_experts": 0,
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
}
TEMPLATES = (
    "{{ raise_exception('no') }}",
    "{% for m in messages %}{{ m.content }}",
    "{{ messages[99].content }}",
    "{{ undefined.attribute }}",
    "{{ 1 // 0 }}",
    "{% include 'x' %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages | tojson | fromjson }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "nothing of what was said",
    "",
)
MODEL, TOKENIZER = ("config.json", "generation_config.json"), ("tokenizer.json", "tokenizer_config.json")


@functools.cache
def good_folder(family: str) -> dict[str, bytes]:
    """The files of a model of one layer with a tokenizer of bytes."""
    module = resolve("finemem_jax.models", family)
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bpe = Tokenizer(models.BPE(alphabet, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(tokenizers.PADDING, special=True), AddedToken(tokenizers.END_OF_TURN)])
    cfg = dataclasses.replace(module.PRESETS["tiny"], num_layers=1, vocab_size=264, hidden_size=16, intermediate_size=8)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=tokenizers.END_OF_TURN,
        pad_token=tokenizers.PADDING,
        chat_template=tokenizers.CHAT_TEMPLATE,
    )
    path = FOLDER / f"good-{family}"
    hf.save_pretrained(path, module.Model(cfg), init_params(module.Model(cfg), jax.random.key(0)), tokenizer)
    return {file.name: file.read_bytes() for file in path.iterdir()}


def places(tree: object, prefix: tuple = ()) -> list[tuple]:
    """The way to every value of a JSON tree; of long lists and objects to a few."""
    found = [prefix] if prefix else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items)[:40]:
        found += places(value, (*prefix, key))
    return found


def changed(rng: random.Random, tree: dict) -> dict:
    """A JSON object with one to three of its values gone, of another kind, doubled or under another name."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not (found := places(tree)):
            return tree
        *way, last = rng.choice(found)
        node = functools.reduce(lambda node, key: node[key], way, tree)
        match rng.randrange(8):
            case 0:
                del node[last]
            case 1 if isinstance(node, dict):
                node[pieces.text(rng, str(last))] = node.pop(last)
            case 2:
                node[last] = [node[last]]
            case 3:
                node[last] = {"value": node[last]}
            case 4:
                node[last] = str(node[last])
            case 5:
                node[last] = copy.deepcopy(rng.choice(OTHERS))
            case _:
                node[last] = rng.choice(NUMBERS)
    return tree


def encoded(tree: object) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def change_file(rng: random.Random, files: dict[str, bytes], name: str) -> None:
    """What may happen to a file, whatever is in it."""
    content = files[name]
    match rng.randrange(6):
        case 0:
            del files[name]
        case 1:
            files[name] = content[: rng.randrange(len(content) + 1)]
        case 2:
            at = rng.randrange(min(len(content), 2000))
            files[name] = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        case 3:
            files[name] = rng.choice((b"", b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 100_000, b"\0" * 100))
        case 4:
            files[f"{name}/inside"] = files.pop(name)  # a folder of its name
        case _:
            text = pieces.text(rng, content[:4000].decode("utf-8", "replace"))
            files[name] = text.encode("utf-8", "surrogatepass") + content[4000:]


def change_weights(rng: random.Random, files: dict[str, bytes]) -> None:
    """Another header of model.safetensors, or an index beside it."""
    name = "model.safetensors"
    data = files[name]
    (size,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    match rng.randrange(4):
        case 0:
            others = ("../model.safetensors", "/dev/null", "x.safetensors")
            weight_map = {tensor: rng.choice((name, name, *others)) for tensor in header}
            files["model.safetensors.index.json"] = encoded(changed(rng, {"metadata": {}, "weight_map": weight_map}))
        case 1:
            files[name] = struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, 2**40, 2**63))) + data[8:]
        case _:
            written = encoded(changed(rng, header))
            files[name] = struct.pack("<Q", len(written)) + written + rest


def model_folder(rng: random.Random) -> None:
    """Read as far as it can be: model, tokenizer, a prompt. Each ends in a value, or in a line that names it."""
    files = dict(good_folder(rng.choice(FAMILIES)))
    part = rng.choice(("model", "model", "tokenizer", "weights", "template", "file"))
    if part in ("model", "tokenizer"):
        name = rng.choice(MODEL if part == "model" else TOKENIZER)
        tree = json.loads(files[name])
        if name == "config.json":
            tree |= {key: copy.deepcopy(EXTRA[key]) for key in rng.sample(list(EXTRA), rng.randint(0, 3))}
        files[name] = encoded(changed(rng, tree))
    elif part == "weights":
        change_weights(rng, files)
    elif part == "template":
        template = rng.choice((*TEMPLATES, pieces.text(rng, tokenizers.CHAT_TEMPLATE)))
        files["chat_template.jinja"] = template.encode("utf-8", "surrogatepass")
    else:
        change_file(rng, files, rng.choice([name for name in files if name != "README.md"]))
    path = FOLDER / "model"
    shutil.rmtree(path, ignore_errors=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    if part in ("model", "weights", "file"):
        read_model(path)
    if part in ("tokenizer", "template", "file"):
        read_tokenizer(path)


def read_model(path: Path) -> None:
    try:
        model, params = hf.load_pretrained(path)
    except UserError as error:
        assert str(path) in str(error) and len(str(error)) < 2000, error
        return
    cfg = model.cfg
    assert np.isfinite(rope_frequencies(cfg)).all() and 0 < np.float32(cfg.rms_norm_eps) < 1 and cfg.num_layers == 1
    assert all(0 <= token < cfg.vocab_size for token in cfg.eos_token_ids)
    assert all(leaf.size for leaf in jax.tree.leaves(params))


def read_tokenizer(path: Path) -> None:
    try:
        tokenizer = tokenizers.load(str(path))
        cfg = PromptConfig(max_prompt_tokens=100_000)
        prompts.check(tokenizer, flat.SPECS, cfg, max_operations=4)
        tokens, _ = prompts.render(tokenizer, flat.SPECS, "Ada lives in Oslo.", (), cfg, max_operations=4)
        assert tokens and all(isinstance(token, int) for token in (*tokens, *tokenizers.stop_tokens(tokenizer)))
    except UserError as error:
        assert len(str(error)) < 2000, error
