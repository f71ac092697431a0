"""A frozen model in the decoding engine, as a chat model: the local answerer and the local judge."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from finemem_jax.chat.replies import why_unanswered
from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.types import Chat, Messages, Reply, Sampling


class EngineChat(Chat):
    """Puts every conversation off until `settle`: the device belongs to the policy until its rollouts are done, and
    two threads that launch programs over several devices can deadlock. Then it answers all of them in one batch."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, cfg: AnswererConfig, what: str):
        """what: "answerer" or "judge", the group of settings that a mistake is reported in."""
        self.engine, self.tokenizer, self.cfg, self._what = engine, tokenizer, cfg, what
        self._waiting: list[tuple[tuple[int, ...], Sampling, Future[Reply]]] = []
        self._sampling = Sampling(cfg.temperature, max_tokens=cfg.max_tokens, stop_tokens=stop_tokens(tokenizer))

    @property
    def identity(self) -> list:
        """What a reply depends on besides the messages."""
        return ["local", self.cfg.model, self.cfg.temperature, self.cfg.max_tokens]

    def submit(self, conversations: Sequence[Messages], *, max_tokens: int = 0) -> list[Future[Reply]]:
        futures: list[Future[Reply]] = [Future() for _ in conversations]
        sampling = replace(self._sampling, max_tokens=max_tokens or self.cfg.max_tokens)
        prompts = [self._prompt(messages, sampling.max_tokens) for messages in conversations]
        self._waiting += ((prompt, sampling, future) for prompt, future in zip(prompts, futures, strict=True))
        return futures

    def settle(self) -> None:
        while self._waiting:  # an answer may be what a judge was waiting for
            waiting, self._waiting = self._waiting, []
            prompts = [prompt for prompt, _, _ in waiting]
            # An answer depends on its prompt alone, whatever it is asked together with.
            keys = np.array([[zlib.crc32(np.array(prompt, np.int64).tobytes())] for prompt in prompts], np.uint32)
            completions = self.engine.generate(prompts, [sampling for _, sampling, _ in waiting], keys)
            for (prompt, _, future), completion in zip(waiting, completions, strict=True):
                tokens = completion.tokens[:-1] if completion.finish == "stop" else completion.tokens
                text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
                problem = why_unanswered(text, is_cut=completion.finish == "length")
                future.set_result(Reply(text, len(prompt), len(completion.tokens), problem=problem))

    def _prompt(self, messages: Messages, max_tokens: int) -> tuple[int, ...]:
        tokens = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            enable_thinking=False,
            tokenize=True,
            return_dict=False,
        )
        most = self.cfg.context_tokens - max_tokens
        if len(tokens) > most:
            raise UserError(
                f"a prompt of {len(tokens)} tokens and config.{self._what}.max_tokens={max_tokens} do not fit "
                f"config.{self._what}.context_tokens={self.cfg.context_tokens}: raise it, or lower config.retrieval.k "
                "or config.retrieval.max_tokens"
            )
        return tuple(tokens)
