"""What two texts must share to say the same, and the items of a memory by what they say.

No write that changes less than this is a write."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finemem_jax.types import MemoryItem

_QUOTES = "\"'`“”„‘’‚«»‹›"
_ENDS = ".,;:!?…。、！？，；：" + _QUOTES  # they end a word or close it, and say nothing by themselves

_PARTS = 64


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


@dataclass(frozen=True, slots=True)
class BySubstance:
    """Items by what they say: an immutable map, as a memory is a value.

    It lies in parts, so that a change copies one of them and shares the others with the map it was made from: a memory
    of thousands of items has a snapshot at every step."""

    _parts: tuple[Mapping[str, MemoryItem], ...] = ({},) * _PARTS

    @classmethod
    def of(cls, items: Iterable[MemoryItem]) -> BySubstance:
        """The map of many items, made at once."""
        parts: tuple[dict[str, MemoryItem], ...] = tuple({} for _ in range(_PARTS))
        for item in items:
            said = substance(item.text)
            parts[_part(said)][said] = item
        return cls(parts)

    def find(self, said: str) -> MemoryItem | None:
        """The item that says so."""
        return self._parts[_part(said)].get(said)

    def adding(self, said: str, item: MemoryItem) -> BySubstance:
        return self._with(said, {**self._parts[_part(said)], said: item})

    def removing(self, said: str) -> BySubstance:
        rest = {other: item for other, item in self._parts[_part(said)].items() if other != said}
        return self._with(said, rest)

    def _with(self, said: str, part: Mapping[str, MemoryItem]) -> BySubstance:
        number = _part(said)
        return BySubstance((*self._parts[:number], part, *self._parts[number + 1 :]))


def _part(said: str) -> int:
    """The same in every process: `hash` of a text is not, and memories are sent from one to another."""
    return zlib.crc32(said.encode("utf-8", "surrogatepass")) % _PARTS
