"""Whether a reply of a chat model is an answer."""

from __future__ import annotations

from finemem_jax.env.thoughts import is_thinking, without_thoughts


def why_unanswered(text: str, *, is_cut: bool) -> str:
    """Why a reply says nothing that could be right or wrong: it was cut off before the answer began; "" where it is an
    answer, be it an empty one.

    is_cut: the model was stopped at its limit of tokens. An open thought is one that was cut off, whatever the server
    says; with a parser of its own it keeps the thought to itself, and the text is empty.
    """
    if not is_thinking(text) and (without_thoughts(text).strip() or not is_cut):
        return ""
    return (
        "cut off at max_tokens before it answered: raise config.answerer.max_tokens, or switch thinking off, for most "
        """servers with config.answerer.extra='{"chat_template_kwargs": {"enable_thinking": false}}'"""
    )
