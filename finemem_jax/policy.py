"""From a config to what a run works with: tokenizer, model, parameters, environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
        from finemem_jax.weights import hf

        model, params = hf.load_pretrained(
            tokenizers.resolve_path(cfg.model.path), dtype=cfg.model.param_dtype, mesh=mesh
        )
        settings = model.cfg
    else:
        family = resolve("finemem_jax.models", cfg.model.family)
        if cfg.model.preset not in family.PRESETS:
            known = sorted(family.PRESETS)
            raise UserError(unknown(cfg.model.preset, known, f"config.model.preset of {cfg.model.family}:"))
        settings = family.PRESETS[cfg.model.preset]
        if cfg.model.tokenizer == BUILD_TINY:
            settings = dataclasses.replace(
                settings,
                vocab_size=-(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
                eos_token_ids=(tokenizer.eos_token_id,),
                pad_token_id=tokenizer.pad_token_id,
            )
        model, params = family.Model(settings), None
    if len(tokenizer) > settings.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding {settings.vocab_size} "
            "(config.model.tokenizer, config.model.path)"
        )
    settings = dataclasses.replace(
        settings, dtype=cfg.model.dtype, param_dtype=cfg.model.param_dtype, remat=cfg.model.remat
    )
    model = type(model)(settings)
    if params is None:
        params = init_params(model, jax.random.key(cfg.seed), mesh)
    return Policy(tokenizer, model, params)


def load_tokenizer(cfg: Config) -> PreTrainedTokenizerBase:
    if cfg.model.tokenizer == BUILD_TINY:
        return tokenizers.build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences())
    if not (cfg.model.tokenizer or cfg.model.path):
        raise UserError("config.model.tokenizer is needed when config.model.path is empty")
    return tokenizers.load(cfg.model.tokenizer or cfg.model.path)


def load_environment(cfg: Config, tokenizer: PreTrainedTokenizerBase) -> Environment:
    return Environment(tokenizer, tokenizers.token_counter(tokenizer), cfg.memory, cfg.prompt, cfg.retrieval)


def load_answerer(cfg: Config) -> Answerer:
    return resolve("finemem_jax.answerers", cfg.answerer.name).create(cfg.answerer)


def load_mesh(cfg: Config) -> Mesh | None:
    """The mesh of the config over all devices; None on a single device, where nothing is sharded."""
    if jax.device_count() == 1:
        return None
    return make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
