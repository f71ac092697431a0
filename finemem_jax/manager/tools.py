"""The verbs of `Manager` as tools for a model: schemas in the OpenAI format, and calls of them carried out.

Who uses the tools chooses the user: no tool has an argument for it, for the model that calls is told what to call by
texts of that user.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.types import AnswererDown

_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    parameters: Mapping[str, tuple[dict, str]]  # name -> schema, description
    required: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        properties = {name: {**kind, "description": said} for name, (kind, said) in self.parameters.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.required),
            "additionalProperties": False,
        }


TOOLS = (
    Tool(
        "memory_read",
        "Give the memory something to read; it keeps by itself what is worth keeping. Returns what was written.",
        {
            "text": (_TEXT, "What was said or found out, word for word."),
            "time": (_TEXT, "When it was said, e.g. 2026-05-08."),
            "source": (_TEXT, "Where it is from; what was read of the same source before is passed over."),
        },
        ("text",),
    ),
    Tool(
        "memory_recall",
        "Find what memory holds on a question. Returns items, best first, with their ids, times and sources.",
        {"question": (_TEXT, "What you want to know."), "k": (_COUNT, "How many items at most; 0 = the default.")},
        ("question",),
    ),
    Tool(
        "memory_answer",
        "Answer a question from memory alone.",
        {"question": (_TEXT, "The question.")},
        ("question",),
    ),
    Tool(
        "memory_history",
        "Every change of an item, oldest first; without an id, all that was read and written.",
        {"id": (_TEXT, "The id of an item.")},
    ),
    Tool(
        "memory_forget",
        "Remove an item from memory, or all that were written before a time. Returns their ids.",
        {"id": (_TEXT, "The id of an item."), "before": (_TEXT, "A time, e.g. 2026-05-08.")},
    ),
)
_BY_NAME = {tool.name: tool for tool in TOOLS}


def schemas() -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema()},
        }
        for tool in TOOLS
    ]


def call(verbs: Mapping[str, Callable], name: str, arguments: str | Mapping[str, Any], user: str) -> str:
    """What the tool gives as JSON, or what is wrong with the call as {"error": …}. verbs: by the name of their tool."""
    try:
        given = _checked(name, arguments)
        found = verbs[name](**given, user=user)
    except (UserError, AnswererDown) as error:
        return json.dumps({"error": str(error)})
    return json.dumps(_plain(found))


def _checked(name: str, arguments: str | Mapping[str, Any]) -> dict[str, Any]:
    tool = _BY_NAME.get(name)
    if tool is None:
        raise UserError(f"no tool {str(name)[:80]!r}; there are: {', '.join(_BY_NAME)}")
    try:
        given = json.loads(arguments or "{}") if isinstance(arguments, str) else dict(arguments)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the arguments of {name} are no JSON: {error}") from error
    if not isinstance(given, dict):
        raise UserError(f"the arguments of {name} must be an object")
    for key, value in given.items():
        if key not in tool.parameters:
            raise UserError(f"{name} has no argument {str(key)[:80]!r}; it has: {', '.join(tool.parameters)}")
        kind = int if tool.parameters[key][0]["type"] == "integer" else str
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{name}: {key} must be {'a whole number' if kind is int else 'text'}")
    lacking = [key for key in tool.required if key not in given]
    if lacking:
        raise UserError(f"{name} lacks {', '.join(lacking)}")
    return given


def _plain(found: Any) -> Any:
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {field.name: _plain(getattr(found, field.name)) for field in dataclasses.fields(found)}
    return [_plain(item) for item in found] if isinstance(found, tuple | list) else found
