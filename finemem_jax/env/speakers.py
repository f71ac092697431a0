"""Who an item of a conversation's memory is of, where it says so: "[8 May 2023] Anna: She moved to Oslo." is Anna's."""

from __future__ import annotations

import re

_WORD = r"[^\W\d_][\w.'-]{0,30}+"
_SPEAKER = re.compile(rf"\s{{0,8}}+(?:\[[^\]\n]{{0,64}}+\]\s{{0,8}}+)?+(?P<name>{_WORD}(?: {_WORD}){{0,3}}+):\s")


def speaker_of(text: str) -> str:
    """The name before the first colon, behind a date in brackets if there is one; "" without such a beginning."""
    found = _SPEAKER.match(text)
    return found["name"] if found else ""
