"""A frozen model in the same decoding engine as the policy, on the same devices.

    --config.answerer.name=local --config.answerer.model=FOLDER

It answers when the policy's rollouts are done (`settle`), all questions in one batch: while the policy decodes, the
device belongs to it. `local` is that model as a chat, see `chat/engine.py`.
"""

from __future__ import annotations

from finemem_jax.answerers._model import ModelAnswerer
from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.types import Chat


def create(cfg: AnswererConfig, local: Chat | None = None) -> ModelAnswerer:
    if local is None:
        raise UserError("config.answerer.name=local: the model that answers is not loaded")
    return ModelAnswerer(local, (cfg.price_prompt, cfg.price_completion), cfg.prompt)
