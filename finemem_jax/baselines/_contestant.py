"""What a file of this folder says of its contestant, and the settings that several of them change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finemem_jax.config import Config, resolve
from finemem_jax.types import Episode, Operation, Turn

Writer = Callable[[Episode, Turn], Sequence[Operation]]
"""A script that writes in the policy's place. It may look at the episode's questions, which no policy can."""

_UNLIMITED = 2**30


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who writes memory, and under which settings."""

    cfg: Config  # its memory, prompt, method and retrieval; of the rest it changes nothing
    write: Writer | None = None  # None: the model writes, greedily, as it was before training
    # a script that writes what a policy could: in the config's codec, on the prompts that a policy reads; else it names
    # any item, and chunks may be of any length
    in_prompts: bool = False
    # its prompts are its own, as long as the config says, whatever the policy was trained with; without a script its
    # model may be the one that serves the policy
    by_server: bool = False


def for_scripts(cfg: Config) -> Config:
    """`cfg` itself where its memory has the tools of memory/flat.py, else with that one: scripts write no other. Its
    prompts were made for the other memory, so nobody is to read them."""
    if any(spec.name == "memory_insert" for spec in resolve("finemem_jax.memory", cfg.memory.name).SPECS):
        return cfg
    return replace(cfg, memory=replace(cfg.memory, name="flat"), prompt=replace(cfg.prompt, codec="qwen"))


def without_limits(cfg: Config) -> Config:
    """`cfg` for a script, with a memory that takes everything."""
    cfg = for_scripts(cfg)
    limits: dict[str, Any] = dict.fromkeys(("max_operations", "max_items", "max_tokens", "max_item_tokens"), _UNLIMITED)
    return replace(cfg, memory=replace(cfg.memory, **limits))


def instructed(cfg: Config, method: str) -> Contestant:
    """A memory system that is made of calls to a chat model: a method of that name, on a memory that takes everything;
    its model is the one that serves the policy, or the policy before training."""
    cfg = without_limits(cfg)
    return Contestant(replace(cfg, method=replace(cfg.method, name=method)), by_server=True)


def reading(cfg: Config, **settings: Any) -> Config:
    """`cfg` with other settings of retrieval."""
    return replace(cfg, retrieval=replace(cfg.retrieval, **settings))
