"""Text of a policy -> memory operations, and back.

How operations are written is a codec's matter (`codecs/`). Any text is safe: `parse` never raises on what a policy
wrote, takes linear time, and returns exactly one `Operation` per call found (of the first `MOST_CALLS`), with `error`
set where the call is malformed: cut off, not readable, unknown name, or an argument that is missing, too many, no
string, or none of its choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from finemem_jax.config import resolve
from finemem_jax.env.thoughts import OPEN, without_thoughts
from finemem_jax.types import Call, Operation, ToolSpec

CODECS = "finemem_jax.codecs"
MOST_CALLS = 1 << 14  # read of one text, far beyond any budget of a turn: more would only cost seconds


class _Malformed(Exception):
    """Why a call is no operation; becomes `Operation.error`, never leaves this module."""


def parse(
    text: str, specs: Sequence[ToolSpec], *, codec: str = "qwen", is_cut: bool = False, is_thinking: bool = False
) -> tuple[Operation, ...]:
    """Operations and parse errors of `text`, in the order written.

    specs: the tools on offer; every argument is a string.
    A call inside a thought is none (`thoughts.py`); is_thinking: the prompt ended inside one.
    is_cut: the text ended because its budget did, so that its last call may be half of one.
    An error is an Operation with `error` = "malformed: <why>", without arguments, and with the name if one was read.
    """
    known = {spec.name: spec for spec in specs}
    module, written = resolve(CODECS, codec), OPEN + text if is_thinking else text
    if not getattr(module, "READS_THOUGHTS", False):
        written = without_thoughts(written)
    calls = module.find(written, specs, is_cut=is_cut)
    return tuple(_read(call, known) for call in itertools.islice(calls, MOST_CALLS))


def emit(operations: Sequence[Operation], codec: str = "qwen", specs: Sequence[ToolSpec] = ()) -> str:
    """The text that `parse` reads as `operations`, which must be free of errors. specs: the tools, needed where
    arguments are left out."""
    for operation in operations:
        if operation.error:
            raise ValueError(f"cannot write an operation that carries an error: {operation.error}")
    return resolve(CODECS, codec).write(operations, specs)


def instructions(specs: Sequence[ToolSpec], codec: str) -> str:
    """What a prompt says of these tools and of how a codec writes their calls."""
    return resolve(CODECS, codec).instructions(specs)


def unfit(codec: str, specs: Sequence[ToolSpec]) -> str:
    """Why operations of these tools cannot be written in a codec, "" where they can."""
    says = getattr(resolve(CODECS, codec), "unfit", None)
    return says(specs) if says else ""


def _read(call: Call, known: dict[str, ToolSpec]) -> Operation:
    """The operation of one call. The name is kept in an error, so that reports can count errors by tool."""
    name = _printable(call.name)
    try:
        if call.error:
            raise _Malformed(call.error)
        return Operation(name, _checked_arguments(name, call.arguments, known))
    except _Malformed as error:
        return Operation(name, error=f"malformed: {error}")


def _checked_arguments(name: str, arguments: object, known: dict[str, ToolSpec]) -> dict[str, object]:
    if name not in known:
        raise _Malformed(f"unknown tool {name!r}; known: {', '.join(known)}")
    if not isinstance(arguments, dict):
        raise _Malformed("arguments are not an object")
    spec = known[name]
    wanted = spec.parameters
    for key in spec.required:
        if key not in arguments:
            raise _Malformed(f"missing argument {key!r}")
    for key, value in arguments.items():
        if key not in wanted:
            raise _Malformed(f"unexpected argument {_printable(key)!r}")
        if not isinstance(value, str):
            raise _Malformed(f"argument {key!r} is not a string")
        if not _is_encodable(value):  # a lone surrogate escape such as "\ud83d": breaks tokenizers and files later
            raise _Malformed(f"argument {key!r} is not valid Unicode")
        if key in spec.choices and value not in spec.choices[key]:
            raise _Malformed(f"argument {key!r} is {_printable(value)!r}, allowed: {', '.join(spec.choices[key])}")
    return {key: arguments[key] for key in wanted if key in arguments}


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    """A name fit for logs and messages: bounded, encodable."""
    return name[:64].encode("utf-8", "replace").decode("utf-8")
