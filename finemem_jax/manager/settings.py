"""What a manager in use is told beside what its exported folder says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.schema.convert import build
from finemem_jax.schema.legal import Amount, Count, Natural, Place, Range, Text, check


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerConfig:
    folder: Place = ""  # the exported folder of the model; "" = the model itself, or the name it is served under
    served_name: Text = ""  # of the model, behind a URL; "" = the only one that is served there
    temperature: Annotated[float, Range(0, also=(-1,))] = -1.0  # -1 = what the folder says; 0 = greedy
    chunk_tokens: Natural = 0  # most tokens of a chunk; 0 = what the folder says
    # How conversations are written: dialogue | lines (`config.data.layout`); "" = what the folder says
    layout: Literal["", "dialogue", "lines"] = ""
    keep_text: bool = True  # keep what was read in the log; else its digest alone
    # A turn is written anew when another process wrote to the same memory meanwhile: so many times at most
    tries: Count = 5
    busy_seconds: Annotated[float, Range(0, 86400)] = 60.0  # how long to wait for another process that writes
    key_variable: Text = "OPENAI_API_KEY"  # environment variable with the key of the model's server
    timeout_seconds: Annotated[float, Range(0.001)] = 120.0  # of one request to it
    patience_seconds: Amount = 60.0  # how long to wait for it while it is away or busy
    extra: Text = ""  # JSON object merged into every request to it
    answerer: AnswererConfig = field(default_factory=AnswererConfig)  # who answers from what is recalled


def manager_config(given: ManagerConfig | Mapping[str, Any] | None) -> ManagerConfig:
    """The settings, checked; a mapping names some of the fields. Raises UserError on what is not known or illegal."""
    if given is None:
        return ManagerConfig()
    if not isinstance(given, ManagerConfig | Mapping):
        raise UserError(f"config must be a ManagerConfig or a mapping of its fields, got {type(given).__name__}")
    cfg = given if isinstance(given, ManagerConfig) else build(ManagerConfig, given, "config")
    check(cfg)
    if cfg.answerer.name == "local":
        raise UserError("config.answerer.name=local: a manager answers with endpoint, or without a model")
    if cfg.answerer.name == "endpoint" and not (cfg.answerer.url and cfg.answerer.model):
        raise UserError("config.answerer.name=endpoint needs config.answerer.url and config.answerer.model")
    return cfg


def server_settings(cfg: ManagerConfig, url: str, name: str, temperature: float, max_tokens: int) -> AnswererConfig:
    """How the model's server is asked."""
    return dataclasses.replace(
        AnswererConfig(),
        name="endpoint",
        url=url,
        model=name,
        key_variable=cfg.key_variable,
        temperature=temperature,
        max_tokens=max_tokens,
        extra=cfg.extra,
        timeout_seconds=cfg.timeout_seconds,
        patience_seconds=cfg.patience_seconds,
    )
