"""The FUNCTION/ARGS text that Mem-α's released weights write.

What counts as a call: a FUNCTION marker, with the ARGS marker that follows it. The format has no closing mark, so prose
may follow the object; it is left out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence

from finemem_jax.env import thoughts
from finemem_jax.env.lenient_json import Malformed, load_object
from finemem_jax.env.marks import marks_in, without_marks
from finemem_jax.types import Call, Operation, ToolSpec

_FUNCTION, _ARGS = "✿FUNCTION✿", "✿ARGS✿"
_MARKS = (_FUNCTION, _ARGS, "✿RESULT✿", "✿RETURN✿")

_INSTRUCTIONS = """\
# Tools

You have these tools:

{tools}

Call a tool with two lines, once for each call:
✿FUNCTION✿: the name of the tool
✿ARGS✿: its arguments, a JSON object"""


def find(text: str, specs: Sequence[ToolSpec], *, is_cut: bool = False) -> Iterator[Call]:
    marks = list(marks_in(text, _MARKS))
    name = None  # of the FUNCTION marker whose ARGS are awaited
    for (position, mark), following in itertools.zip_longest(marks, marks[1:]):
        end = following[0] if following else len(text)
        body = text[position + len(mark) : end].removeprefix(":").strip()
        if name is not None and mark != _ARGS:
            yield Call(name, error="no arguments")
        if mark == _ARGS:
            yield Call("", error="arguments without a function") if name is None else _read(name, body)
        name = body if mark == _FUNCTION else None
    if name is not None:
        yield Call(name, error="no arguments: cut off")


def _read(name: str, body: str) -> Call:
    try:
        return Call(name, load_object(_without_tail(body)))
    except Malformed as error:
        return Call(name, error=str(error))


def _without_tail(body: str) -> str:
    """`body` up to its last brace or fence: what follows is prose."""
    if body.startswith("{"):
        return body[: body.rfind("}") + 1] or body
    if body.startswith("```"):
        return body[: body.rfind("```") + 3]
    return body


def write(operations: Sequence[Operation], specs: Sequence[ToolSpec] = ()) -> str:
    return "\n".join(_write(operation) for operation in operations)


def _write(operation: Operation) -> str:
    body = json.dumps(operation.arguments, ensure_ascii=False)
    body = without_marks(body, ("✿", thoughts.OPEN, thoughts.CLOSE))
    return f"{_FUNCTION}: {operation.name}\n{_ARGS}: {body}"


def instructions(specs: Sequence[ToolSpec]) -> str:
    return _INSTRUCTIONS.format(tools="\n\n".join(_tool(spec) for spec in specs))


def _tool(spec: ToolSpec) -> str:
    lines = [f"- {key} ({_form(spec, key)}): {description}" for key, description in spec.parameters.items()]
    return "\n".join([f"{spec.name}: {spec.description} Arguments:{'' if lines else ' none'}", *lines])


def _form(spec: ToolSpec, key: str) -> str:
    form = " or ".join(f'"{choice}"' for choice in spec.choices[key]) if key in spec.choices else "string"
    return form if key in spec.required else f"{form}, may be left out"


def is_taught(shown: str) -> bool:
    return False
