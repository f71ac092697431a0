"""JSON as models write it: strict first, then a repair that cannot change content.

| written                                                 | read as                                             |
|---|---|
| code fence around the JSON, raw newlines in a string    | as if written properly                              |
| trailing comma, single quotes, bare keys, comments      | repaired, if every string stands in the text as is  |
| cut off, unclosed string, missing brace                 | malformed: half a sentence must not be stored       |
| text or further keys after the object, two objects      | malformed: one of the two would be dropped silently |
| `"a" + "b"`, bare quotes inside a string                | malformed: a repair would store the joint literally |
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import json_repair

_REPAIR_CHARACTERS = 16_384
"""Longer bodies are never repaired: json_repair is not linear, and a call that long is no slip of the pen."""

_REPAIR_DEPTH = 8
"""Nor are deeper ones: 8,000 nested braces keep json_repair busy for seconds, and a call has a depth of 2."""


class Malformed(Exception):
    """Why a call could not be read; becomes `Call.error`, never leaves this folder."""


def load(body: str) -> dict:
    """The JSON object that `body` holds and nothing else."""
    body = _unfenced(body.strip())
    try:
        # strict=False takes raw newlines inside strings, which models write often and which lose nothing.
        value = json.loads(body, strict=False, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        value = _repair(body)
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def _unfenced(body: str) -> str:
    """What stands inside a code fence, where `body` is one: "```json", a line break, the text, "```"."""
    if not body.startswith("```"):
        return body
    head, line_break, rest = body[3:].partition("\n")
    if not line_break or not rest.endswith("```") or len(head.split()) > 1:
        raise Malformed("code fence not closed around the call")
    return rest[:-3].strip()


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Malformed("a key is given twice")
    return value


def _repair(body: str) -> object:
    """`body` with slips of notation put right. Raises Malformed where that would need a guess about content."""
    if len(body) > _REPAIR_CHARACTERS:
        raise Malformed("not valid JSON")
    _require_one_closed_object(body)
    try:
        value = json_repair.loads(body, skip_json_loads=True)
    except Exception as error:  # a third-party parser on hostile text: whatever it raises is the text's fault
        raise Malformed("not valid JSON") from error
    if not all(_stands_in(text, body) for text in _strings(value)):
        raise Malformed("not valid JSON, and a repair would change the text")
    return value


def _require_one_closed_object(body: str) -> None:
    """Raises Malformed unless `body` is one brace-to-brace object: not cut off, nothing before or after it."""
    if not body.startswith("{"):
        raise Malformed("not a JSON object")
    depth, in_string, escaped = 0, False, False
    for position, character in enumerate(body):
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "{[":
            depth += 1
            if depth > _REPAIR_DEPTH:
                raise Malformed("not valid JSON")
        elif character in "}]":
            depth -= 1
            if depth <= 0 and position < len(body) - 1:
                raise Malformed("text after the JSON object")
    if in_string:
        raise Malformed("cut off inside a string")
    if depth:
        raise Malformed("cut off: a brace is not closed")


def _strings(value: object) -> Iterator[str]:
    """All strings in a JSON value, keys left out. json_repair bounds the depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _stands_in(text: str, body: str) -> bool:
    """Whether `body` holds `text` as one quoted string, so that a repair has neither cut nor joined it."""
    single_quoted = not any(character in text for character in "'\"\\") and f"'{text}'" in body
    return single_quoted or json.dumps(text, ensure_ascii=False) in body or json.dumps(text) in body
