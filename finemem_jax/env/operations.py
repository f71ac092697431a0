"""Text of a policy -> memory operations, and back.

Two wire formats ("codecs"): "qwen" is Qwen's tool call, JSON between `<tool_call>` tags; "function_args" is the
FUNCTION/ARGS text that Mem-α's released weights write. Any text is safe: `parse` never raises on what a policy wrote,
takes linear time, and returns exactly one `Operation` per call found, with `error` set where the call is malformed.

What counts as a call: an opening tag, or a FUNCTION marker. Text around calls (reasoning, invented results) is
neither an operation nor an error. What is repaired and what is not:

| written                                                 | read as                                             |
|---|---|
| code fence around the JSON, raw newlines in a string    | as if written properly                              |
| trailing comma, single quotes, bare keys, comments      | repaired, if every string stands in the text as is  |
| cut off, unclosed string, missing brace, no closing tag | malformed: half a sentence must not be stored       |
| text or further keys after the object, two objects      | malformed: one of the two would be dropped silently |
| `"a" + "b"`, bare quotes inside a string                | malformed: a repair would store the joint literally |
| unknown name; missing, further or non-string argument   | malformed                                           |
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import json_repair

from finemem_jax import types
from finemem_jax.config import UserError, unknown

_REPAIR_CHARACTERS = 16_384
"""Longer bodies are never repaired: json_repair is not linear, and a call that long is no slip of the pen."""

_REPAIR_DEPTH = 8
"""Nor are deeper ones: 8,000 nested braces keep json_repair busy for seconds, and a call has a depth of 2."""


class Malformed(Exception):
    """Why a call could not be read; becomes `Operation.error`, never leaves this module."""


class _Call(NamedTuple):
    """A call as found: `name` where the format writes it outside the JSON (else None), and the JSON's text."""

    name: str | None
    body: str
    error: str = ""


def parse(text: str, specs: Sequence[types.ToolSpec], *, codec: str = "qwen") -> tuple[types.Operation, ...]:
    """Operations and parse errors of `text`, in the order written.

    specs: the tools on offer; every argument of a tool is a required string.
    An error is an Operation with `error` = "malformed: <why>", without arguments, and with the name if one was read.
    """
    known = {spec.name: spec for spec in specs}
    return tuple(_read(call, known) for call in _codec(codec).find(text))


def emit(operations: Sequence[types.Operation], codec: str = "qwen") -> str:
    """The text that `parse` reads as `operations`, which must be free of errors."""
    for operation in operations:
        if operation.error:
            raise ValueError(f"cannot write an operation that carries an error: {operation.error}")
    return "\n".join(_codec(codec).write(operation) for operation in operations)


# --------------------------------------------------------------------------------------------------------------
# One call
# --------------------------------------------------------------------------------------------------------------


def _read(call: _Call, known: dict[str, types.ToolSpec]) -> types.Operation:
    """The operation of one call. The name is kept in an error, so that reports can count errors by tool."""
    name = _printable(call.name or "")
    try:
        if call.error:
            raise Malformed(call.error)
        value = _load(call.body)
        if call.name is None:
            name, value = _name_and_arguments(value)
        return types.Operation(name, _checked_arguments(name, value, known))
    except Malformed as error:
        return types.Operation(name, error=f"malformed: {error}")


def _name_and_arguments(value: dict) -> tuple[str, object]:
    """Splits {"name": …, "arguments": {…}}; absent arguments are none."""
    name = value.get("name")
    if not isinstance(name, str):
        raise Malformed('no string "name"')
    extra = [key for key in value if key not in ("name", "arguments")]
    if extra:
        raise Malformed(f"unexpected key {_printable(extra[0])!r} beside name and arguments")
    return _printable(name), value.get("arguments", {})


def _checked_arguments(name: str, arguments: object, known: dict[str, types.ToolSpec]) -> dict[str, object]:
    if name not in known:
        raise Malformed(f"unknown tool {name!r}; known: {', '.join(known)}")
    if not isinstance(arguments, dict):
        raise Malformed("arguments are not an object")
    wanted = known[name].parameters
    for key in wanted:
        if key not in arguments:
            raise Malformed(f"missing argument {key!r}")
    for key, value in arguments.items():
        if key not in wanted:
            raise Malformed(f"unexpected argument {_printable(key)!r}")
        if not isinstance(value, str):
            raise Malformed(f"argument {key!r} is not a string")
        if not _is_encodable(value):  # a lone surrogate escape such as "\ud83d": breaks tokenizers and files later
            raise Malformed(f"argument {key!r} is not valid Unicode")
    return {key: arguments[key] for key in wanted}


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    """A name fit for logs and messages: bounded, encodable."""
    return name[:64].encode("utf-8", "replace").decode("utf-8")


# --------------------------------------------------------------------------------------------------------------
# JSON: strict first, then a repair that cannot change content
# --------------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"```\w*\s*\n(.*?)\n?\s*```", re.DOTALL)


def _load(body: str) -> dict:
    """The JSON object that `body` holds and nothing else."""
    body = body.strip()
    if body.startswith("```"):
        fenced = _FENCE.fullmatch(body)
        if not fenced:
            raise Malformed("code fence not closed around the call")
        body = fenced.group(1).strip()
    try:
        # strict=False takes raw newlines inside strings, which models write often and which lose nothing.
        value = json.loads(body, strict=False, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        value = _repair(body)
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


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


# --------------------------------------------------------------------------------------------------------------
# Codec "qwen"
# --------------------------------------------------------------------------------------------------------------

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_TAG = re.compile(r"</?tool_call>")


def _find_qwen(text: str) -> Iterator[_Call]:
    start = None  # end of the opening tag whose call is being read
    previous = 0  # end of the last tag
    for tag in _TAG.finditer(text):
        opens = tag.group() == _OPEN
        if start is not None:
            yield _Call(None, text[start : tag.start()], "no closing tag" if opens else "")
        elif not opens and "{" in text[previous : tag.start()]:
            yield _Call(None, "", "no opening tag")
        start = tag.end() if opens else None
        previous = tag.end()
    if start is not None:
        yield _Call(None, text[start:], "no closing tag: cut off")


def _write_qwen(operation: types.Operation) -> str:
    body = json.dumps({"name": operation.name, "arguments": operation.arguments}, ensure_ascii=False)
    # A tag inside a string would end the call; escaped, it survives the way back.
    for tag in (_OPEN, _CLOSE):
        body = body.replace(tag, "\\u003c" + tag[1:])
    return f"{_OPEN}\n{body}\n{_CLOSE}"


# --------------------------------------------------------------------------------------------------------------
# Codec "function_args"
# --------------------------------------------------------------------------------------------------------------

_MARKER = re.compile(r"✿(FUNCTION|ARGS|RESULT|RETURN)✿:?")


def _find_function_args(text: str) -> Iterator[_Call]:
    markers = list(_MARKER.finditer(text))
    name = None  # of the FUNCTION marker whose ARGS are awaited
    for marker, following in itertools.zip_longest(markers, markers[1:]):
        end = following.start() if following else len(text)
        kind, body = marker.group(1), text[marker.end() : end].strip()
        if name is not None and kind != "ARGS":
            yield _Call(name, "", "no arguments")
        if kind == "ARGS":
            yield _Call(name or "", _without_tail(body), "" if name is not None else "arguments without a function")
        name = body if kind == "FUNCTION" else None
    if name is not None:
        yield _Call(name, "", "no arguments: cut off")


def _without_tail(body: str) -> str:
    """`body` up to its last brace or fence: this format has no closing mark, so prose may follow the object."""
    if body.startswith("{"):
        return body[: body.rfind("}") + 1] or body
    if body.startswith("```"):
        return body[: body.rfind("```") + 3]
    return body


def _write_function_args(operation: types.Operation) -> str:
    body = json.dumps(operation.arguments, ensure_ascii=False).replace("✿", "\\u273f")
    return f"✿FUNCTION✿: {operation.name}\n✿ARGS✿: {body}"


# --------------------------------------------------------------------------------------------------------------


class _Codec(NamedTuple):
    find: Callable[[str], Iterator[_Call]]
    write: Callable[[types.Operation], str]


_CODECS = {
    "qwen": _Codec(_find_qwen, _write_qwen),
    "function_args": _Codec(_find_function_args, _write_function_args),
}


def _codec(name: str) -> _Codec:
    if name not in _CODECS:
        raise UserError(unknown(name, list(_CODECS), "config.prompt.codec"))
    return _CODECS[name]
