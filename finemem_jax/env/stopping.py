"""Texts that end a turn: what would be written behind one of them does not exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class StopStrings:
    """The first of `strings` that a completion holds ends it."""

    tokenizer: PreTrainedTokenizerBase
    strings: tuple[str, ...]

    def length(self, tokens: Sequence[int], start: int = 0) -> int:
        """How many tokens there are up to the one that completes one of the strings; 0 where none is complete.

        start: so many of the tokens are known to hold none. Where a string ends within a token, that token counts."""
        # A string of n bytes has n tokens at most, so one that ends behind `start` begins behind `begin`.
        begin = max(start - max(len(text.encode()) for text in self.strings), 0)
        if not self._holds(tokens[begin:]):
            return 0
        return next((end for end in range(start + 1, len(tokens)) if self._holds(tokens[begin:end])), len(tokens))

    def cut(self, text: str) -> str:
        """The text up to the end of the first string in it; all of it where there is none."""
        ends = [place + len(string) for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(ends, default=len(text))]

    def _holds(self, tokens: Sequence[int]) -> bool:
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(string in text for string in self.strings)
