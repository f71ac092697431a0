"""Where the marks of a format stand in a text, how to write a mark that is not to be taken for one, and the mark of a
text that was cut off."""

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


def without_marks(text: str, marks: Sequence[str]) -> str:
    """`text` with the first character of every mark as an escape (`\\u003c`), which JSON and the lines read back."""
    for mark in marks:
        text = text.replace(mark, f"\\u{ord(mark[0]):04x}{mark[1:]}")
    return text


CUT = "[cut off here]"


def cut_off(text: str) -> str:
    """A text that ended before its end, without its last word, which may be half of one, and with the mark CUT."""
    whole = text.removesuffix(CUT).rstrip()
    border = max(whole.rfind(" "), whole.rfind("\n"))
    return f"{whole[: border if border > 0 else -1].rstrip()} {CUT}".strip()
