"""A trained manager in our own engine, for `Manager` with a folder: the one part of it that needs jax."""

from __future__ import annotations

import threading
import zlib
from dataclasses import replace

import numpy as np

from finemem_jax.config import Config, EngineConfig, ModelConfig
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.environment import Asked, Environment
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.loading import load_policy
from finemem_jax.types import Completion, Episode, Sampling, Turn


class EngineWriter:
    """A `Writer` of manager/writer.py: one turn at a time, for the device has one owner."""

    def __init__(self, engine: Engine, sampling: Sampling):
        self._engine, self._sampling, self._lock = engine, sampling, threading.Lock()

    def complete(self, env: Environment, turn: Turn, episode: Episode, asked: Asked) -> Completion:
        sampling = replace(self._sampling, max_tokens=turn.max_tokens or self._sampling.max_tokens)
        # A function of its prompt alone, as a server's is at temperature 0
        key = np.array([[zlib.crc32(np.array(turn.prompt_tokens, np.int64).tobytes()), turn.index]], np.uint32)
        with self._lock:
            return self._engine.generate([turn.prompt_tokens], sampling, key)[0]


def open_engine_writer(folder: str, env: Environment, temperature: float) -> EngineWriter:
    """The model of an exported folder, computed in float32. env: of its training."""
    prompt = env.prompt
    capacity = EngineConfig(slots=1, cache_tokens=prompt.max_prompt_tokens + prompt.max_completion_tokens)
    model = ModelConfig(path=folder, dtype="float32")
    policy = load_policy(replace(Config(), model=model, engine=capacity, prompt=prompt))
    limits = Sampling(temperature, max_tokens=prompt.max_completion_tokens, stop_tokens=stop_tokens(env.tokenizer))
    return EngineWriter(Engine(policy.model, policy.params, capacity), limits)
