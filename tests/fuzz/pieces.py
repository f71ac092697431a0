"""Texts and values that have broken something somewhere, and texts with such pieces put in."""

from __future__ import annotations

import copy
import random

PIECES = (
    *("<tool_call>", "</tool_call>", "<tool_call", "FUNCTION:", "ARGS:", "{", "}", "[", "]", '"', "'", ":", ",", "\\"),
    '{"name": "memory_insert", "arguments": {"content": "the boat is red"}}',
    *('"name"', '"arguments"', '"content"', '"id"', "memory_insert", "memory_update", "memory_delete", "memory_skip"),
    *("#1", "../../etc/passwd", "/dev/null", "con.txt", "%s", "{0}", "$(id)", "`id`", "-1", "1e999", "null", "true"),
    *("\x00", "\x1b[31m", "\x1b]0;title\x07", "\ud83d", "\\ud83d", "\u2028", "\u202e", "\ufeff", "\x85", "é", "漢字"),
    *(
        "😀",
        "<script>alert(1)</script>",
        "</script>",
        "<!--",
        "&lt;",
        "NaN",
        "Infinity",
        "```json\n",
        "```",
        "\n",
        "\r",
    ),
    *("\t", " ", "//", "/*", "a", "b" * 50, "{" * 30, "[" * 30, '"a" + "b"'),
)
VALUES = (
    *(0, 1, -1, 3, 0.5, 1e-9, 1e30, 10**30, float("nan"), float("inf"), True, False, None, "", "x", "none", "full"),
    *("\x1b[31m", "\ud83d", "../..", [], ["expert"], (1.0, 0.0), (200,), {}, {"format": 1.0}, {"steps": 3}, [[]]),
    "a" * 5000,
)


def value(rng: random.Random) -> object:
    """One of VALUES, free to be changed."""
    return copy.deepcopy(rng.choice(VALUES))


def text(rng: random.Random, base: str = "") -> str:
    """`base` with a few pieces put in, cut out or doubled; mostly pieces when there is no base."""
    for _ in range(rng.randint(1, 8)):
        at = rng.randint(0, len(base))
        match rng.randrange(4):
            case 0:
                end = min(len(base), at + rng.randint(0, 12))
                base = base[:at] + base[end:]
            case 1:
                base = (
                    base[:at]
                    + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), 0xD800, 0x1F600)))
                    + base[at:]
                )
            case _:
                base = base[:at] + rng.choice(PIECES) + base[at:]
    return base
