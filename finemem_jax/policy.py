"""From a config to what a run works with: tokenizer, model, parameters, environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from finemem_jax.config import Config, UserError, resolve, unknown
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.environment import Environment
from finemem_jax.nn.sharding import init_params, make_mesh
from finemem_jax.types import Answerer
from finemem_jax.weights import hf

BUILD_TINY = "tiny"  # config.model.tokenizer: build the tiny tokenizer from the diary's sentences
VOCAB_MULTIPLE = 64  # the tiny model's vocabulary is rounded up to this


@dataclass(frozen=True, slots=True)
class Policy:
    tokenizer: PreTrainedTokenizerBase
    model: nn.Module
    params: Any


def load_policy(cfg: Config, mesh: Mesh | None = None) -> Policy:
    """The policy a run starts from: the weights at `model.path`, or random ones of `model.family` and `preset`."""
    tokenizer = load_tokenizer(cfg)
    if cfg.model.path:
        model, params = hf.load_pretrained(
            tokenizers.resolve_path(cfg.model.path),
            dtype=cfg.model.dtype,
            param_dtype=cfg.model.param_dtype,
            remat=cfg.model.remat,
            lora=cfg.model.lora,
            mesh=mesh,
            seed=cfg.seed,
        )
        hf.check_vocabulary(len(tokenizer), model.cfg.vocab_size, cfg.model.tokenizer or cfg.model.path)
        return Policy(tokenizer, model, params)
    family = resolve("finemem_jax.models", cfg.model.family)
    if cfg.model.preset not in family.PRESETS:
        raise UserError(
            unknown(cfg.model.preset, sorted(family.PRESETS), f"config.model.preset of {cfg.model.family}:")
        )
    settings = dataclasses.replace(
        family.PRESETS[cfg.model.preset],
        dtype=cfg.model.dtype,
        param_dtype=cfg.model.param_dtype,
        remat=cfg.model.remat,
        lora=cfg.model.lora,
    )
    if cfg.model.tokenizer == BUILD_TINY:
        settings = dataclasses.replace(
            settings,
            vocab_size=-(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
            eos_token_ids=(tokenizer.eos_token_id,),
            pad_token_id=tokenizer.pad_token_id,
        )
    hf.check_vocabulary(len(tokenizer), settings.vocab_size, cfg.model.tokenizer)
    model = family.Model(settings)
    return Policy(tokenizer, model, init_params(model, jax.random.key(cfg.seed), mesh))


def load_tokenizer(cfg: Config) -> PreTrainedTokenizerBase:
    if cfg.model.tokenizer == BUILD_TINY:
        return tokenizers.build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences())
    if not (cfg.model.tokenizer or cfg.model.path):
        raise UserError("config.model.tokenizer is needed when config.model.path is empty")
    return tokenizers.load(cfg.model.tokenizer or cfg.model.path)


def load_environment(cfg: Config, tokenizer: PreTrainedTokenizerBase) -> Environment:
    return Environment(tokenizer, tokenizers.token_counter(tokenizer), cfg.memory, cfg.prompt, cfg.retrieval)


def load_answerer(cfg: Config, workdir: Path) -> Answerer:
    """The answerer of a run. What a model answered is kept in `workdir` unless the config names another file."""
    settings = dataclasses.replace(cfg.answerer, cache=cfg.answerer.cache or str(workdir / "answers.sqlite"))
    return resolve("finemem_jax.answerers", settings.name).create(settings)


def load_mesh(cfg: Config) -> Mesh | None:
    """The mesh of the config over all devices; None where all its axes are 1, and nothing is sharded."""
    axes = (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    if axes == (1, 1, 1) or jax.device_count() == 1:
        return None
    return make_mesh(*axes)
