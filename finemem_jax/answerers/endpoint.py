"""A frozen model behind any OpenAI-compatible server: vLLM, SGLang, `transformers serve`, a hosted one.

    --config.answerer.name=endpoint --config.answerer.url=http://localhost:8000/v1 --config.answerer.model=NAME

The key comes from the environment (`config.answerer.key_variable`) and is written nowhere.
"""

from __future__ import annotations

from finemem_jax.answerers._model import ModelAnswerer, open_endpoint
from finemem_jax.config import AnswererConfig
from finemem_jax.types import Chat


def create(cfg: AnswererConfig, local: Chat | None = None) -> ModelAnswerer:
    return ModelAnswerer(open_endpoint(cfg), (cfg.price_prompt, cfg.price_completion), cfg.prompt)
