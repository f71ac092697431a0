"""Where the marks of a format stand in a text."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence


def marks_in(text: str, marks: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(position, mark) of every mark in `text`, in order. One pass per mark, whatever the text."""
    return heapq.merge(*(_positions(text, mark) for mark in marks))


def _positions(text: str, mark: str) -> Iterator[tuple[int, str]]:
    position = text.find(mark)
    while position >= 0:
        yield position, mark
        position = text.find(mark, position + len(mark))
