"""Text -> pieces within a token budget, cut at the coarsest border that fits.

A text is tokenized once as a whole. Where its tokens end says how many any stretch of it has, up to a few at its own
ends; only what comes within `_SLACK` tokens of the budget is counted by itself. So the time is that of two or three
passes over the text, whatever the budget and however small its words.
"""

from __future__ import annotations

import itertools
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import regex

from finemem_jax.env.counting import WordCounter, ends_by_words
from finemem_jax.env.words import CHARACTER, UNSPACED, is_special
from finemem_jax.types import CountTokens

_SLACK = 16  # tokens that the count of a stretch by itself may differ from its share of the whole text's

# From coarse to fine: paragraph, line or turn, sentence, word. A piece ends after the border. The signs at the end of a
# sentence are those of Latin, Indic, Arabic, Burmese and Khmer script before white space, and the East Asian ones.
_SENTENCE = r"(?<=[.!?।॥؟۔။។])[\"'”’)\]]*+\s++|(?<=[。！？｡．])[\"'”’)\]」』）】》]*+\s*+"
_BORDERS = tuple(re.compile(pattern) for pattern in (r"\n(?:[^\S\n]*+\n)++", r"\n", _SENTENCE, r"\s+"))
# White space, or a character before which another one stands: one that none follows matches too, without the group, for
# an attempt that failed behind a long run of marks would be made again at each of them.
_SPECIAL_WORD_BORDER = regex.compile(rf"(?V1)(\s++)|{CHARACTER}(?:(?={UNSPACED})())?")
_WORDS = len(_BORDERS) - 1  # the finest level


def token_counter(name: str) -> CountTokens:
    """Counts the tokens of the tokenizer at a folder or hub name, or words and signs where there is none."""
    if not name:
        return WordCounter()
    from finemem_jax.env import tokenizer  # transformers takes seconds to import

    return tokenizer.token_counter(tokenizer.load(name))


def keep(count_tokens: CountTokens) -> None:
    """Brings to the disk where texts were cut, so that the next run need not tokenize them again."""
    if hasattr(count_tokens, "keep"):
        count_tokens.keep()


class Span(NamedTuple):
    """A stretch of a text, by character: text[start:end]."""

    start: int
    end: int


def split_text(text: str, budget: int, count_tokens: CountTokens) -> list[Span]:
    """Spans of at most `budget` tokens that cover `text`, its outer white space left out.

    A border finer than needed is used only inside a stretch that is too long for the coarser one, and neighbours
    are joined again while they fit. A single word over the budget is cut in half until it fits.
    """

    def cut() -> list[int]:
        located = _Located(text, budget, count_tokens)
        spans = _split(located, _stripped(text, Span(0, len(text))), 0)
        return [position for span in spans for whole in _within(located, span) for position in whole]

    numbers = _kept(count_tokens, cut, "split", budget, text)
    return [Span(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def pack(pieces: Sequence[str], budget: int, count_tokens: CountTokens, separator: str = "\n\n") -> list[list[int]]:
    """Indices of `pieces`, grouped in order so that a group, joined by `separator`, has at most `budget` tokens.

    A piece over the budget is a group of its own.
    """
    text = separator.join(pieces)
    ends = list(itertools.accumulate((len(piece) + len(separator) for piece in pieces), initial=0))
    spans = [Span(start, start + len(piece)) for start, piece in zip(ends, pieces, strict=False)]

    def sizes() -> list[int]:
        return [len(group) for group in _groups(_Located(text, budget, count_tokens), spans)]

    lengths = ",".join(str(len(piece)) for piece in pieces)
    found = _kept(count_tokens, sizes, "pack", budget, separator, lengths, text)
    starts = itertools.accumulate(found, initial=0)
    return [list(range(start, start + size)) for start, size in zip(starts, found, strict=False)]


def _kept(count_tokens: CountTokens, make, *what: object) -> list[int]:
    """What `make` gives, from an earlier run where the counter keeps such things."""
    return count_tokens.of(make, *what) if hasattr(count_tokens, "of") else make()


class _Located:
    """A text and where its tokens end."""

    def __init__(self, text: str, budget: int, count_tokens: CountTokens):
        self.text, self.budget, self._count_tokens = text, budget, count_tokens
        locate = getattr(count_tokens, "ends", None)  # a tokenizer's counter knows; others only count
        self._ends: array = locate(text) if locate else ends_by_words(text, count_tokens)

    def before(self, position: int) -> int:
        """Tokens that end at a position or before it."""
        return bisect_right(self._ends, position)

    def fits(self, start: int, end: int) -> bool:
        """Whether the stretch has at most `budget` tokens."""
        over = self.before(end) - self.before(start) - self.budget
        return over < -_SLACK or (over <= _SLACK and self.fits_by_itself(start, end))

    def fits_by_itself(self, start: int, end: int) -> bool:
        return self._count_tokens(self.text[start:end]) <= self.budget


def _split(located: _Located, span: Span, level: int) -> list[Span]:
    if span.start == span.end:
        return []
    if span.end - span.start == 1 or located.fits(*span):
        return [span]
    if level == len(_BORDERS):
        return [piece for half in _halves(span) for piece in _split(located, half, level)]
    text = located.text
    borders = [span.start, *_borders(text, span, level), span.end]
    parts = [_stripped(text, Span(*pair)) for pair in itertools.pairwise(borders)]
    pieces = [piece for part in parts for piece in _split(located, part, level + 1)]
    return [Span(group[0].start, group[-1].end) for group in _groups(located, pieces)]


def _borders(text: str, span: Span, level: int) -> Iterator[int]:
    if level == _WORDS and is_special(text):
        found = _SPECIAL_WORD_BORDER.finditer(text, *span)
        return (match.end() for match in found if match.lastindex)
    return (match.end() for match in _BORDERS[level].finditer(text, *span))


def _halves(span: Span) -> tuple[Span, Span]:
    middle = (span.start + span.end) // 2
    return Span(span.start, middle), Span(middle, span.end)


def _groups(located: _Located, pieces: Sequence[Span]) -> Iterator[Sequence[Span]]:
    """Runs of neighbouring pieces, each as long as its stretch of the text fits. A piece that does not is alone."""
    before = [located.before(piece.end) for piece in pieces]
    first = 0
    while first < len(pieces):
        start = pieces[first].start
        # The last piece that fits as far as the whole text's tokens say; then the true one, which is near.
        most = located.before(start) + located.budget
        last = max(first, bisect_right(before, most, lo=first) - 1)
        while last > first and not located.fits_by_itself(start, pieces[last].end):
            last -= 1
        while last + 1 < len(pieces) and located.fits(start, pieces[last + 1].end):
            last += 1
        yield pieces[first : last + 1]
        first = last + 1


def _within(located: _Located, span: Span) -> list[Span]:
    """The span itself; in halves, should a tokenizer count so otherwise by itself than within its text."""
    if span.end - span.start <= 1 or located.fits_by_itself(*span):
        return [span]
    return [piece for half in _halves(span) for piece in _within(located, half)]


def _stripped(text: str, span: Span) -> Span:
    part = text[span.start : span.end]
    start = span.start + len(part) - len(part.lstrip())
    return Span(start, max(start, span.start + len(part.rstrip())))
