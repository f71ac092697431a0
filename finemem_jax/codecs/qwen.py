"""Qwen's tool calls: JSON between `<tool_call>` tags, as Qwen's chat templates teach them.

What counts as a call: an opening tag. Text around calls (reasoning, invented results) is neither an operation nor an
error. A call without its closing tag is malformed: it may be cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from finemem_jax.codecs._json_call import read_call
from finemem_jax.env import thoughts
from finemem_jax.env.marks import marks_in, without_marks
from finemem_jax.types import Call, Operation, ToolSpec

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"

_INSTRUCTIONS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def find(text: str, specs: Sequence[ToolSpec], *, is_cut: bool = False) -> Iterator[Call]:
    start = None  # end of the opening tag whose call is being read
    previous = 0  # end of the last tag
    for position, tag in marks_in(text, (_OPEN, _CLOSE)):
        opens = tag == _OPEN
        if start is not None:
            body = text[start:position]
            yield Call("", error="no closing tag") if opens else read_call(body, arguments=("arguments",))
        elif not opens and "{" in text[previous:position]:
            yield Call("", error="no opening tag")
        previous = position + len(tag)
        start = previous if opens else None
    if start is not None:
        yield Call("", error="no closing tag: cut off")


def write(operations: Sequence[Operation], specs: Sequence[ToolSpec] = ()) -> str:
    return "\n".join(_write(operation) for operation in operations)


def _write(operation: Operation) -> str:
    body = json.dumps({"name": operation.name, "arguments": operation.arguments}, ensure_ascii=False)
    # A tag inside a string would end the call, or hide it; escaped, it survives the way back.
    body = without_marks(body, (_OPEN, _CLOSE, thoughts.OPEN, thoughts.CLOSE))
    return f"{_OPEN}\n{body}\n{_CLOSE}"


def instructions(specs: Sequence[ToolSpec]) -> str:
    """In the words of Qwen's chat templates, so that the prompt is the one that they make of `tools=`."""
    return _INSTRUCTIONS.format(tools="\n".join(json.dumps(spec.schema(), ensure_ascii=False) for spec in specs))


def is_taught(shown: str) -> bool:
    return _OPEN in shown or "{" not in shown  # names alone (the tiny tokenizer's) teach no other calls
