"""Models in and out of Hugging Face folders: `load_pretrained`, `save_pretrained`, `save_adapters`.

What a checkpoint tensor is called and which parameter it fills is the family's `TENSOR_MAP` (models/*.py).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from huggingface_hub.errors import HfHubHTTPError
from jax.sharding import Mesh

from finemem_jax.config import LoraConfig, UserError, plugins, resolve
from finemem_jax.nn.lora import has_adapters, init_adapters
from finemem_jax.nn.sharding import ShardingRules, param_shardings
from finemem_jax.weights.export_folder import new_folder
from finemem_jax.weights.hf_tensors import adapter_tensors, checked_sources, export_tensors, load_parameter
from finemem_jax.weights.safetensor_files import SINGLE, Checkpoint, Tensor, write_tensors

# What a model card says of the run: how the policy was trained, and nothing of where, with which data or which servers.
CARD_FIELDS = ("seed", "memory", "prompt", "rewards", "advantage", "loss", "optimizer", "train")

HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


# --------------------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------------------


def load_pretrained(
    path: str | os.PathLike,
    *,
    dtype: Any = "float32",
    mesh: Mesh | None = None,
    param_dtype: Any = None,
    rules: ShardingRules | None = None,
    remat: str = "none",
    lora: LoraConfig | None = None,
    seed: int = 0,
) -> tuple[nn.Module, dict]:
    """The model of a folder or hub name, and its parameters.

    dtype: compute dtype; param_dtype: dtype the parameters are stored in (default: the same); float32 | bfloat16.
    mesh, rules: place each parameter as `nn.sharding.param_shardings` says; every process reads its own shards only.
    lora: with rank > 0, adapters are added, drawn from `seed`; they change nothing until they are trained.
    Host memory beyond the parameters themselves: a few times CHUNK_BYTES. Raises UserError, one line.
    """
    folder = find_folder(path)
    family, cfg = read_config(folder)
    cfg = replace(cfg, dtype=_float(dtype), param_dtype=_float(param_dtype or dtype), remat=remat)
    base = family.Model(cfg)
    checkpoint = Checkpoint(folder)
    sources = checked_sources(family, base, checkpoint, folder)
    shardings = None if mesh is None else flatten_dict(param_shardings(base, mesh, rules))
    params = {}
    for target, source in sources.items():
        params[target] = load_parameter(checkpoint, source, shardings[target] if shardings else None)
    if lora is None or lora.rank == 0:
        return base, unflatten_dict(params)
    model = family.Model(replace(cfg, lora=lora))
    return model, init_adapters(model, unflatten_dict(params), jax.random.key(seed), mesh, rules)


def _float(dtype: Any) -> str:
    name = jnp.dtype(dtype).name
    if name not in ("float32", "bfloat16"):
        raise UserError(f"a model runs and is stored in float32 or bfloat16, not {name}")
    return name


def find_folder(path: str | os.PathLike) -> Path:
    """The local folder of a folder or hub name; a hub name is downloaded, or found in the hub's local cache."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    name = str(path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such folder, and not a hub name like Qwen/Qwen3-4B")
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name}: no such folder, and not found on the hub or in its cache ({reason})") from None


def read_config(folder: Path) -> tuple[ModuleType, Any]:
    """(family module, its Config) of a folder's config.json; stop tokens from generation_config.json if it is there."""
    hf = _read_json(folder / "config.json")
    families = {module.HF_MODEL_TYPE: module for module in map(_family, plugins("finemem_jax.models"))}
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in families:
        raise UserError(f"{folder}: model_type {kind!r} is not supported; supported: {', '.join(sorted(families))}")
    if (folder / "generation_config.json").exists():
        generation = _read_json(folder / "generation_config.json")
        hf |= {"eos_token_id": generation.get("eos_token_id") or hf.get("eos_token_id")}
    try:
        cfg = families[kind].config_from_hf(hf)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    _check_tokenizer_file(folder, cfg.vocab_size)
    return families[kind], cfg


def _family(name: str) -> ModuleType:
    return resolve("finemem_jax.models", name)


def _read_json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file} must hold a JSON object")
    return value


def _check_tokenizer_file(folder: Path, vocab_size: int) -> None:
    if not (folder / "tokenizer.json").exists():
        return
    file = folder / "tokenizer.json"
    content = _read_json(file)
    model, added = content.get("model", {}), content.get("added_tokens", [])
    vocab = model.get("vocab", {}) if isinstance(model, dict) else None
    if not isinstance(vocab, dict | list) or not isinstance(added, list):
        raise UserError(f"{file}: model.vocab must be an object or a list, added_tokens a list")
    ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
    ids += [token.get("id") if isinstance(token, dict) else None for token in added]
    if not all(type(token) is int and token >= 0 for token in ids):
        raise UserError(f"{file}: the id of a token must be a whole number from 0 on")
    check_vocabulary(max(ids, default=-1) + 1, vocab_size, str(folder))


def check_vocabulary(tokens: int, vocab_size: int, where: str) -> None:
    """Raises UserError when a tokenizer has ids that the embedding has no row for."""
    if tokens > vocab_size:
        raise UserError(f"{where}: the tokenizer has {tokens} tokens, the embedding only {vocab_size} rows")


# --------------------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------------------


def save_pretrained(
    path: str | os.PathLike,
    model: nn.Module,
    params: dict,
    tokenizer: Any = None,
    *,
    max_shard_bytes: int = 5_000_000_000,
    dtype: Any = None,
    run_config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float | None] | None = None,
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a folder that transformers, vLLM and SGLang serve; adapters are merged into the weights.

    dtype: of the written tensors (default: as stored). run_config, metrics: for the model card, which shows of the
    config what describes the method (CARD_FIELDS). files: further JSON files of the folder, by name.
    The folder appears whole or not at all. An earlier export at `path` is replaced, nothing else ever is. In a run of
    several processes all of them call this and process 0 writes; it holds one file's tensors at a time. Raises
    UserError, one line.
    """
    cfg = model.cfg
    family = _family(cfg.family)
    dtype = jnp.dtype(dtype or cfg.param_dtype)
    if tokenizer is not None:
        check_vocabulary(len(tokenizer), cfg.vocab_size, "tokenizer")
    tensors = list(export_tensors(family, model, params, dtype))
    with new_folder(path) as folder:
        write_tensors(folder, tensors, max_shard_bytes)
        if folder is None:
            return
        _write_json(folder / "config.json", family.config_to_hf(cfg) | {"torch_dtype": dtype.name})
        _write_json(folder / "generation_config.json", _generation_config(cfg, tokenizer))
        for name, content in (files or {}).items():
            _write_json(folder / name, content)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(_model_card(cfg, tensors, dtype, run_config, metrics))


def save_adapters(
    path: str | os.PathLike,
    model: nn.Module,
    params: dict,
    *,
    base_model: str = "",
    tokenizer: Any = None,
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the adapters alone as a PEFT folder; `base_model` is the folder or hub name they belong to. A hub name is
    written down; of a folder its own name alone, for nobody else has the path to it. files: further JSON files of the
    folder, by name."""
    if not has_adapters(params):
        raise UserError("there are no adapters to export: train with model.lora.rank >= 1, or export the whole model")
    cfg = model.cfg
    family = _family(cfg.family)
    tensors = list(adapter_tensors(family, params))
    adapter_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": _public_name(base_model),
        "r": cfg.lora.rank,
        "lora_alpha": cfg.lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(cfg.lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with new_folder(path) as folder:
        write_tensors(folder, tensors, max_shard_bytes=1 << 62)
        if folder is None:
            return
        (folder / SINGLE).rename(folder / "adapter_model.safetensors")
        for name, content in {"adapter_config.json": adapter_config, **(files or {})}.items():
            _write_json(folder / name, content)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def _public_name(model: str) -> str:
    """Of a model what may stand in a folder that people upload: its hub name, or the name of its folder."""
    is_local = os.path.isdir(model) or os.path.isabs(model) or model.count("/") != 1 or model.startswith((".", "~"))
    return os.path.basename(os.path.abspath(model)) if model and is_local else model


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def _generation_config(cfg: Any, tokenizer: Any) -> dict[str, Any]:
    eos = list(cfg.eos_token_ids)
    if not eos and tokenizer is not None and tokenizer.eos_token_id is not None:
        eos = [tokenizer.eos_token_id]
    ids = {"bos_token_id": cfg.bos_token_id, "eos_token_id": eos or None, "pad_token_id": cfg.pad_token_id}
    # The distribution the policy was trained on: tempered at 1, never truncated.
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return {name: value for name, value in ids.items() if value is not None} | sampling


def _model_card(
    cfg: Any,
    tensors: list[Tensor],
    dtype: np.dtype,
    run_config: Mapping[str, Any] | None,
    metrics: Mapping[str, float | None] | None,
) -> str:
    count = sum(tensor.nbytes for tensor in tensors) // dtype.itemsize
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [memory-manager, grpo, finemem_jax]",
        "---",
        "",
        "# LLM memory manager",
        "",
        f"A {cfg.family} model with {count:,} parameters in {dtype.name}, trained with finemem_jax to keep an "
        "agent's memory: it reads a chunk of the stream and the memory so far, and writes memory operations as tool "
        "calls.",
    ]
    if metrics:
        lines += ["", "## Metrics", "", "| metric | value |", "|---|---|"]
        lines += [f"| {n} | {'missing' if value is None else f'{value:.4g}'} |" for n, value in metrics.items()]
    if shown := _card_fields(run_config or {}):
        lines += ["", "## Run configuration", "", "```json", json.dumps(shown, indent=2), "```"]
    return "\n".join(lines) + "\n"


def _card_fields(tree: Any, names: Collection[str] | None = CARD_FIELDS) -> dict[str, Any]:
    """Of a config the groups of `names`, and of these the numbers and plain names: no path, address or key."""
    shown = {}
    for name, value in tree.items():
        if names is not None and name not in names:
            continue
        if isinstance(value, Mapping):
            value = _card_fields(value, None)
        is_plain = isinstance(value, int | float) or (
            isinstance(value, str) and re.fullmatch(r"\w[\w.+-]{0,39}", value)
        )
        if is_plain or (isinstance(value, dict) and value):
            shown[name] = value
    return shown
