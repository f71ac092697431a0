"""The short lists that the shapes of device calls come from: rows in powers of SHRINK, pages in two sizes per octave,
prefills in powers of two. Each shape is a compilation."""

from __future__ import annotations

import math

MIN_ROWS = 4  # fewest rows that get a compiled decode of their own
SHRINK = 4  # the decode batch shrinks to a quarter, or not at all
PREFILL_ROWS = 8  # prompts per prefill call, at most


def row_bucket(rows: int, most: int) -> int:
    """The smallest of most, most / SHRINK, … (not below MIN_ROWS) that holds `rows`; `most` when none does."""
    bucket = most
    while bucket // SHRINK >= max(rows, MIN_ROWS):
        bucket //= SHRINK
    return bucket


def update_rows(rows: int, most: int) -> int:
    """The smallest of most, most / SHRINK, … (down to 1) that holds so many writes; `most` when none does."""
    bucket = most
    while bucket > 1 and max(bucket // SHRINK, 1) >= rows:
        bucket = max(bucket // SHRINK, 1)
    return bucket


def text_tokens(length: int, most: int) -> int:
    """Tokens that a text of a write is padded to: `most`, or a quarter of it where that is enough."""
    return -(-most // SHRINK) if length <= -(-most // SHRINK) else most


def listed_bucket(pages: int, rows: int) -> int:
    """The smallest of rows * (2, 4, 6, 8, 12, 16, 24, …) that holds so many pages."""
    each = 2
    while rows * each < pages:
        each += 2 if each < 8 else 2 ** (each.bit_length() - 2)
    return rows * each


def prefill_width(pages: int, most: int) -> int:
    """Pages of a row's next prefill, of which `pages` (at least one) are left: a power of two or `most`.

    The next above where a quarter of it at most is padding; else the next below, and the rest in another call."""
    above = 2 ** math.ceil(math.log2(pages))
    if above > most:
        return most
    return above if pages >= 0.75 * above else above // 2


def past_bucket(pages: int) -> int:
    """0 or the smallest of 4, 16, 64, … that holds so many pages of a prefill's past."""
    return 4 ** max(1, math.ceil(math.log(pages, 4) - 1e-9)) if pages else 0


def prefill_rows(seq: int, budget: int) -> int:
    """Rows of a full prefill call of `seq` tokens each: a power of two, at most PREFILL_ROWS, within the budget."""
    return 2 ** int(math.log2(min(PREFILL_ROWS, max(1, budget // seq))))
