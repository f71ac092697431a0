"""What a policy needs to know beside its weights: `finemem.json` in its Hugging Face folder.

It holds the groups of `PolicySettings`: the memory that the policy writes with its limits, the prompt and the format of
its calls, the loop of an episode, what it is retrieved by, how text comes to it in chunks, and how it is sampled.
Whoever serves, evaluates or uses the folder renders its prompts with them. It is read back strictly: what is not known
here is not passed over, for a policy that reads another prompt than it was trained on writes another memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from finemem_jax import config
from finemem_jax.config import (
    Config,
    Layout,
    MemoryConfig,
    MethodConfig,
    PromptConfig,
    RetrievalConfig,
    UserError,
)
from finemem_jax.console import tell
from finemem_jax.schema.convert import build
from finemem_jax.schema.legal import Amount, Count, check

FILE = "finemem.json"
SCHEMA = 2  # of the file; 1 had no number, no chunking and no decoding
_OF_THE_POLICY = ("memory", "prompt", "method")  # the rest is the evaluation's
# What a file of each schema must hold
_NEEDED = {1: _OF_THE_POLICY, SCHEMA: (*_OF_THE_POLICY, "retrieval", "chunking", "decoding")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How text was cut for the policy."""

    tokens: Count = 2048  # most of a chunk
    layout: Layout = "dialogue"  # how conversations are written


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How it is sampled when it is used. How much it may write is a matter of its prompt."""

    temperature: Amount = 0.0  # 0 = greedy


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    chunking: Chunking = field(default_factory=Chunking)
    decoding: Decoding = field(default_factory=Decoding)


def settings_of(cfg: Config) -> PolicySettings:
    """What a policy trained with `cfg` is to be used with: of the temperatures it is evaluated at, the lowest."""
    return PolicySettings(
        memory=cfg.memory,
        prompt=cfg.prompt,
        method=cfg.method,
        retrieval=cfg.retrieval,
        chunking=Chunking(tokens=cfg.data.chunk_tokens, layout=cfg.data.layout),
        decoding=Decoding(temperature=min(cfg.eval.temperatures, default=0.0)),
    )


def settings_file(cfg: Config) -> dict[str, dict]:
    """FILE and what it holds. A path of this machine is left out: it means nothing where the folder goes."""
    tree = {"schema": SCHEMA, **config.to_dict(settings_of(cfg))}
    if os.sep in tree["retrieval"]["model"]:
        tree["retrieval"]["model"] = ""
    return {FILE: tree}


def read_settings(folder: str | os.PathLike) -> PolicySettings | None:
    """What the file in `folder` says; None where there is none.

    Raises UserError, one line, where it is damaged, of a later version, or names what is not known here."""
    path = Path(folder) / FILE
    if not folder or not path.is_file():
        return None
    try:
        stored = json.loads(path.read_bytes())
        schema = stored.pop("schema", 1)
        groups = {name: stored[name] for name in _NEEDED.get(schema, ())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): export the policy anew") from error
    if not groups:
        raise UserError(f"{path} has schema {schema!r}, and this version reads 1 to {SCHEMA}: update finemem_jax")
    try:
        found = build(PolicySettings, stored, "config")
        check(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return found


def with_settings_of(cfg: Config, folder: str) -> Config:
    """`cfg` with the memory, prompt and method that the policy in `folder` was trained with, as far as it says.

    Raises UserError where the file is damaged or of another version."""
    trained = read_settings(folder)
    if trained is None:
        return cfg
    own = {name: getattr(trained, name) for name in _OF_THE_POLICY}
    if own != {name: getattr(cfg, name) for name in _OF_THE_POLICY}:
        tell(f"note: {folder} was trained with its own config.{', config.'.join(own)}, used here", file=sys.stderr)
    # The cache is of this machine; it must hold a turn.
    need = trained.prompt.max_prompt_tokens + trained.prompt.max_completion_tokens
    engine = dataclasses.replace(cfg.engine, cache_tokens=max(cfg.engine.cache_tokens, need))
    return dataclasses.replace(cfg, **own, engine=engine)
