"""The list of entries of Memory-R1 (arXiv 2508.19828): what becomes of each, as one JSON object.

    {"memory": [{"text": "[8 May 2023] Anna: She moved to Oslo.", "event": "ADD"},
                {"id": "#3", "text": "[9 May 2023] Anna: She has two dogs.", "event": "UPDATE"},
                {"id": "#5", "event": "DELETE"},
                {"id": "#7", "text": "[1 May 2023] Leo: He likes tea.", "event": "NONE"}]}

An entry that stays as it is may be repeated with NONE, or left out: it is no operation. NONE without id and text, or a
list in which nothing changes, is the SKIP. "old_memory", and the id of an ADD, may stand there and are not read.

| written                                              | read as                                              |
|------------------------------------------------------|------------------------------------------------------|
| prose or a code fence around the list, several lists | the entries of all lists, in order                   |
| a list without its object, an entry without its list | as if written properly                               |
| a list that is not closed                            | all but its last entry, then an error                |
| an entry that is no JSON or has other keys or events | an error in its place, the others count              |
| the same id twice                                    | both, in order: the second finds what the first left |
| UPDATE or DELETE of an id that is not there          | what it says: the memory answers "unknown id"        |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finemem_jax.env import thoughts
from finemem_jax.env.lenient_json import Malformed, read_entries, read_value
from finemem_jax.env.marks import without_marks
from finemem_jax.types import Call, Operation, ToolSpec

_EVENTS = {"insert": "ADD", "update": "UPDATE", "delete": "DELETE", "skip": "NONE"}
_KEYS = ("id", "text", "event", "old_memory")
# Where a list of entries begins, or an entry that stands alone.
_BEGINNING = re.compile(r'"memory"\s*+:\s*+\[|\[\s*+(?=\{)|\{\s*+(?="(?:id|text|event|old_memory)"\s*+:)')

_INSTRUCTIONS = """\
Reply with one JSON object that lists what changes, in these forms and no other:
{forms}
An entry that stays as it is may be listed with its id and the event NONE, or be left out."""


@dataclass(frozen=True, slots=True)
class _Tools:
    """Whose verbs the events are, and how their arguments are called."""

    names: dict[str, str]  # verb -> tool
    text: str
    id: str


def _tools(specs: Sequence[ToolSpec]) -> _Tools | None:
    """None where the tools are others than a list of texts has."""
    by_verb = {spec.name.rpartition("_")[2]: spec for spec in specs}
    if len(specs) != len(_EVENTS) or by_verb.keys() != _EVENTS.keys() or any(s.optional or s.choices for s in specs):
        return None
    texts, ids = list(by_verb["insert"].parameters), list(by_verb["delete"].parameters)
    is_list = len(texts) == len(ids) == 1 and by_verb["update"].parameters.keys() == {*texts, *ids}
    if not is_list or by_verb["skip"].parameters:
        return None
    return _Tools({verb: spec.name for verb, spec in by_verb.items()}, texts[0], ids[0])


def find(text: str, specs: Sequence[ToolSpec], *, is_cut: bool = False) -> Iterator[Call]:
    tools = _tools(specs)
    if tools is None:
        return
    is_idle, is_list, position = True, False, 0
    end = len(text.rstrip()) if is_cut else -1  # where the text was cut off
    while (beginning := _BEGINNING.search(text, position)) is not None:
        is_list = True
        entries, position = _entries(text, beginning, end)
        for entry in entries:
            call = _call(entry, tools)
            if call is not None:
                is_idle = False
                yield call
    if is_list and is_idle:
        yield Call(tools.names["skip"], {})


def _entries(text: str, beginning: re.Match[str], cut: int) -> tuple[list[object], int]:
    """The entries that begin there, and where the text goes on behind them. cut: where the text was cut off, or -1.

    The last one of a list without its end may be half of what was meant, although its own brace is there."""
    if beginning.group().startswith("{"):
        entry, end = read_value(text, beginning.start())
        return [entry], end
    entries, end, is_closed = read_entries(text, beginning.end())
    if not beginning.group().startswith("["):
        is_closed = is_closed and end != cut  # the brace of its object
    if not is_closed and not (entries and isinstance(entries[-1], Malformed)):
        entries[-1:] = [Malformed("cut off: the list is not closed")]
    return entries, end


def _call(entry: object, tools: _Tools) -> Call | None:
    """The call that an entry is; None for one that stays as it is."""
    if not isinstance(entry, dict):
        return Call("", error=str(entry) if isinstance(entry, Malformed) else "an entry is no object")
    event = entry.get("event")
    event = event.strip().upper() if isinstance(event, str) else event
    verb = next((verb for verb, name in _EVENTS.items() if name == event), "")
    if not verb:
        return Call("", error=f"event {str(event)[:40]!r}, allowed: {', '.join(_EVENTS.values())}")
    foreign = [key for key in entry if key not in _KEYS]
    if foreign:
        return Call(tools.names[verb], error=f"unexpected key {foreign[0][:64]!r} in an entry")
    given = {}
    if "text" in entry:
        given[tools.text] = entry["text"]
    if "id" in entry:
        given[tools.id] = str(entry["id"]) if type(entry["id"]) is int else entry["id"]
    if verb == "skip":
        return None if given else Call(tools.names[verb], {})
    unread = {"insert": tools.id, "delete": tools.text}.get(verb)
    return Call(tools.names[verb], {key: value for key, value in given.items() if key != unread})


def write(operations: Sequence[Operation], specs: Sequence[ToolSpec] = ()) -> str:
    if not operations:
        return ""
    tools = _tools(specs)
    entries = ",\n".join(_written(operation, tools.id if tools else "id") for operation in operations)
    return without_marks(f'{{"memory": [{entries}]}}', (thoughts.OPEN, thoughts.CLOSE))


def _written(operation: Operation, id_key: str) -> str:
    event = _EVENTS[operation.name.rpartition("_")[2]]
    said = {("id" if key == id_key else "text"): value for key, value in operation.arguments.items()}
    ordered = {key: said[key] for key in ("id", "text") if key in said}
    return json.dumps({**ordered, "event": event}, ensure_ascii=False)


def instructions(specs: Sequence[ToolSpec]) -> str:
    return _INSTRUCTIONS.format(forms="\n".join(f"{_form(spec)}   {spec.description}" for spec in specs))


def _form(spec: ToolSpec) -> str:
    """The whole reply with one entry of this kind."""
    example = Operation(spec.name, {name: "…" for name in spec.parameters})
    return f'{{"memory": [{_written(example, "id")}]}}'


def is_taught(shown: str) -> bool:
    return False


def unfit(specs: Sequence[ToolSpec]) -> str:
    fits = _tools(specs) is not None
    return "" if fits else "lists entries, and fits a memory that is one list of them (config.memory.name=flat)"
