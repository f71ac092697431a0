"""Text -> pieces within a token budget, cut at the coarsest border that fits."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from finemem_jax.types import CountTokens

_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")

# From coarse to fine: paragraph, line or turn, sentence, word. A piece ends after the border.
_BORDERS = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"(?<=[.!?])[\"'”’)\]]*\s+", r"\s+"))


def token_counter(name: str) -> CountTokens:
    """Counts the tokens of the tokenizer at a folder or hub name, or words and signs where there is none."""
    if not name:
        return lambda text: len(_WORD_OR_SIGN.findall(text))
    from finemem_jax.env import tokenizer  # transformers takes seconds to import

    return tokenizer.token_counter(tokenizer.load(name))


class Span(NamedTuple):
    """A stretch of a text, by character: text[start:end]."""

    start: int
    end: int


def split_text(text: str, budget: int, count_tokens: CountTokens) -> list[Span]:
    """Spans of at most `budget` tokens that cover `text`, its outer white space left out.

    A border finer than needed is used only inside a stretch that is too long for the coarser one, and neighbours
    are joined again while they fit. A single word over the budget is cut in half until it fits.
    """
    return _split(text, _stripped(text, Span(0, len(text))), budget, count_tokens, 0)


def _split(text: str, span: Span, budget: int, count_tokens: CountTokens, level: int) -> list[Span]:
    if span.start == span.end:
        return []
    if count_tokens(text[span.start : span.end]) <= budget or span.end - span.start == 1:
        return [span]
    if level == len(_BORDERS):
        middle = (span.start + span.end) // 2
        halves = (Span(span.start, middle), Span(middle, span.end))
        return [piece for half in halves for piece in _split(text, half, budget, count_tokens, level)]
    ends = [match.end() for match in _BORDERS[level].finditer(text, span.start, span.end)]
    borders = [span.start, *ends, span.end]
    parts = [_stripped(text, Span(*ends)) for ends in itertools.pairwise(borders)]
    pieces = [piece for part in parts for piece in _split(text, part, budget, count_tokens, level + 1)]
    return _joined(text, pieces, budget, count_tokens)


def _joined(text: str, pieces: Sequence[Span], budget: int, count_tokens: CountTokens) -> list[Span]:
    joined: list[Span] = []
    for piece in pieces:
        if joined and count_tokens(text[joined[-1].start : piece.end]) <= budget:
            joined[-1] = Span(joined[-1].start, piece.end)
        else:
            joined.append(piece)
    return joined


def _stripped(text: str, span: Span) -> Span:
    part = text[span.start : span.end]
    start = span.start + len(part) - len(part.lstrip())
    return Span(start, max(start, span.start + len(part.rstrip())))


def pack(pieces: Sequence[str], budget: int, count_tokens: CountTokens, separator: str = "\n\n") -> list[list[int]]:
    """Indices of `pieces`, grouped in order so that a group, joined by `separator`, has at most `budget` tokens.

    A piece over the budget is a group of its own.
    """
    groups: list[list[int]] = []
    text = ""
    for index, piece in enumerate(pieces):
        longer = text + separator + piece
        if groups and count_tokens(longer) <= budget:
            groups[-1].append(index)
            text = longer
        else:
            groups.append([index])
            text = piece
    return groups
