"""MEM1 over the stream, with a model that was not trained for it: its last thought is its memory."""

from __future__ import annotations

from dataclasses import replace

from finemem_jax.baselines._contestant import Contestant
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    rewriting = replace(cfg.memory, name="overwrite", max_tokens=cfg.prompt.max_completion_tokens)
    prompt = replace(cfg.prompt, name="mem1", codec="think")
    method = replace(cfg.method, name="stream")
    return Contestant(replace(cfg, memory=rewriting, prompt=prompt, method=method), by_server=True)
