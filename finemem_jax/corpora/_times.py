"""Dates as benchmarks write them -> ISO 8601.

"Dec 15, 2025, 06:11:23"     -> "2025-12-15T06:11:23"
"2023/05/20 (Sat) 02:21"     -> "2023-05-20T02:21:00"
"1:56 pm on 8 May, 2023"     -> "2023-05-08T13:56:00"
"March-15-2024"              -> "2024-03-15T00:00:00"
"last summer"                -> ""
"""

from __future__ import annotations

import datetime
import re

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONGEST = 80  # characters; no date is longer
_TOKEN = re.compile(r"[0-9]++(?::[0-9]{2})*+|[a-z]++")
_HEADER = "[Dialogue at timestamp "


def iso(text: str) -> str:
    """The date and time in a text that is one; "" where it is none, or says no year, month or day."""
    if len(text) > _LONGEST:
        return ""
    numbers: list[int] = []
    month, clock, half = 0, (0, 0, 0), ""
    for token in _TOKEN.findall(text.lower()):
        if ":" in token:
            clock = (*map(int, token.split(":")[:3]), 0, 0)[:3]  # type: ignore[assignment]
        elif token.isdigit():
            numbers.append(int(token))
        elif token in ("am", "pm"):
            half = token
        elif token[:3] in _MONTHS and not month:
            month = _MONTHS.index(token[:3]) + 1
    years = [number for number in numbers if 1000 <= number <= 9999]
    rest = [number for number in numbers if number < 1000]
    if not month and len(rest) >= 2:  # 2023/05/20
        month, rest = rest[0], rest[1:]
    if not years or not month or not rest:
        return ""
    hour = clock[0] % 12 + 12 * (half == "pm") if half else clock[0]
    try:
        return datetime.datetime(years[0], month, rest[0], hour, *clock[1:]).isoformat()
    except ValueError:
        return ""


def of_chunk(text: str) -> str:
    """When a chunk of a dialogue was said, by the header that begins it (`_sessions.split_session`)."""
    first = text[: _LONGEST + len(_HEADER)].partition("\n")[0]
    return iso(first.removeprefix(_HEADER).rstrip("]")) if first.startswith(_HEADER) else ""
