"""A memory item as a note: when it was written, who says it, and what.

    [8 May 2023] Caroline: I went to a support group yesterday.

Date and speaker are optional, in any of the usual forms; a text without them is all sentences.
"""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

from finemem_jax.answerers._dates import first_date

_HEADER = 64  # characters in which the date of a note stands
_MOST_BEFORE = 48  # characters before a date that can still be part of a header: "[Dialogue at timestamp 1:56 pm on"
_BEFORE_NAME = " \t\n])(,|<>-"
_SPEAKER = re.compile(r"(?P<name>[^\W\d_][\w'-]{0,30}+(?: [^\W\d_][\w'-]{0,30}+)?+)[>:]")
# Behind the signs that end a sentence, and where a line or a bracket begins
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]?\s++|(?<=[。！？])|\n++|(?=\[)")


class Note(NamedTuple):
    written: datetime.date | None
    speaker: str  # lower-cased; "" = unknown
    sentences: tuple[str, ...]


def read_note(text: str) -> Note:
    found = first_date(text[:_HEADER])
    body = text
    if found is not None and found.start <= _MOST_BEFORE:  # a header, unless words of a sentence go before it
        before = text[: found.start]
        if before.lstrip().startswith(("[", "(")) or not before.strip():
            body = text[found.end :]
    speaker = _SPEAKER.match(body := body.lstrip(_BEFORE_NAME))
    if speaker is not None:
        body = body[speaker.end() :]
    sentences = tuple(part.strip(" \n[](),") for part in _END.split(body))
    return Note(
        found.day if found else None, speaker["name"].lower() if speaker else "", tuple(filter(None, sentences))
    )
