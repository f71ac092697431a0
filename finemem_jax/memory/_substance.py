"""What two texts must share to say the same: no write that changes less than this is a write."""

from __future__ import annotations

import functools
import unicodedata

_QUOTES = "\"'`“”„‘’‚«»‹›"
_ENDS = ".,;:!?…。、！？，；：" + _QUOTES  # they end a word or close it, and say nothing by themselves


@functools.lru_cache(maxsize=1 << 15)  # every write is compared with all items
def substance(text: str) -> str:
    """The words of `text`, case and Unicode-compatible forms folded, one space between them, without the signs that
    end a word, quotes, and characters that are not seen; "" for a text without a word.

    Signs inside or before a word are kept, for "3.5", "-5", "#5" and "C++" are not "35", "5" and "C".

        "Maya's  dentist is Orlov. " -> "maya's dentist is orlov"
        "…"                          -> ""
    """
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", text).replace("’", "'")
        text = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    words = (word.rstrip(_ENDS).lstrip(_QUOTES) for word in text.casefold().split())
    return " ".join(word for word in words if word)
