"""The JSON calls of Llama 3.x: {"name": …, "parameters": {…}} without tags, one a line.

What counts as a call: a brace that opens a line or follows the call before it, behind `<|python_tag|>`, and whatever
separates several (`;`, a comma, the brackets of a list). A brace in the middle of prose opens none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from finemem_jax.codecs._json_call import read_call
from finemem_jax.env import thoughts
from finemem_jax.env.marks import without_marks
from finemem_jax.types import Call, Operation, ToolSpec

_PYTHON_TAG = "<|python_tag|>"
_SEPARATORS = " \t\r;,[]"

_INSTRUCTIONS = """\
You have these functions:

{tools}

Reply with function calls alone, one a line, each a JSON object in the format
{{"name": <function-name>, "parameters": <args-json-object>}}"""


def find(text: str, specs: Sequence[ToolSpec], *, is_cut: bool = False) -> Iterator[Call]:
    position = 0
    while (start := _next_start(text, position)) is not None:
        end = _end(text, start)
        if end is None:
            yield Call("", error="cut off: the object is not closed")
            return
        # "type" is "function", which the models write unasked.
        position = end
        yield read_call(text[start:end], arguments=("parameters", "arguments"), unasked=("type",))


def _next_start(text: str, position: int) -> int | None:
    """Where the next call begins, from `position`, which is the start of a line or the end of a call."""
    while (brace := text.find("{", position)) >= 0:
        line = text.rfind("\n", position, brace) + 1 or position
        if not text[line:brace].replace(_PYTHON_TAG, "").strip(_SEPARATORS):
            return brace
        position = text.find("\n", brace) + 1  # nothing behind prose on its line is a call
        if not position:
            return None
    return None


def _end(text: str, start: int) -> int | None:
    """Where the object that begins at `start` has ended; None if it never does."""
    depth, in_string, escaped = 0, False, False
    for position in range(start, len(text)):
        character = text[position]
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return position + 1
    return None


def write(operations: Sequence[Operation], specs: Sequence[ToolSpec] = ()) -> str:
    return "\n".join(_write(operation) for operation in operations)


def _write(operation: Operation) -> str:
    body = json.dumps({"name": operation.name, "parameters": operation.arguments}, ensure_ascii=False)
    return without_marks(body, (thoughts.OPEN, thoughts.CLOSE))


def instructions(specs: Sequence[ToolSpec]) -> str:
    return _INSTRUCTIONS.format(tools="\n".join(json.dumps(spec.schema(), ensure_ascii=False) for spec in specs))


def is_taught(shown: str) -> bool:
    return '"parameters"' in shown and "<tool_call>" not in shown
