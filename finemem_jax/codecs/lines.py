"""One operation a line: short to write, hard to get wrong, for small language models.

    + Anna moved to Oslo in May.              memory_insert   content
    = Anna moved to Bergen in June. | #3      memory_update   content | id
    - #3                                      memory_delete   id
    skip                                      memory_skip

A line is a call if its first word is the mark of a tool; every other line is prose, neither an operation nor an error.
The mark of a tool comes of its name: `+`, `=`, `-` stand for insert, update, delete, followed by the store where it
is another than "memory" (core_insert: `+core`); any other tool is named by its verb, with a colon if it takes
arguments (`replace:`). Arguments stand in the order of their names, between bars; the first one may hold bars itself.
One that may be left out, and is, is an empty field; `\\e` is an empty text in its place.

Inside an argument `\\n` is a line break, `\\\\` a backslash, `\\|` a bar, `\\uXXXX` any character; a backslash before
anything else is itself. Only a line feed ends a line; space around an argument is no part of it.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence

from finemem_jax.env import thoughts
from finemem_jax.env.marks import without_marks
from finemem_jax.types import Call, Operation, ToolSpec

_SYMBOLS = {"insert": "+", "update": "=", "delete": "-"}
_EMPTY = "\\e"
_HEX = frozenset(string.hexdigits)

_INSTRUCTIONS = """\
Write one operation a line, in these forms and no other:
{forms}
A line break inside a text is written \\n."""


def find(text: str, specs: Sequence[ToolSpec], *, is_cut: bool = False) -> Iterator[Call]:
    tools = {_mark(spec.name, spec.parameters): spec for spec in specs}
    lines = text.split("\n")
    for number, line in enumerate(lines):
        mark, *rest = line.split(maxsplit=1) or [""]
        spec = tools.get(mark)
        if spec is None or (rest and not spec.parameters and rest[0].strip()):
            continue
        if is_cut and number == len(lines) - 1:
            yield Call(spec.name, error="cut off: the line is not ended")
            continue
        names = sorted(spec.parameters)
        values = _split(rest[0] if rest else "", len(names)) if names else []
        if len(values) == len(names):
            given = {name: _read(value, name in spec.optional) for name, value in zip(names, values, strict=True)}
            yield Call(spec.name, {name: value for name, value in given.items() if value is not None})
        else:
            yield Call(spec.name, error=f"{len(values)} of {len(names)} arguments: {' | '.join(names)}")


def _mark(name: str, arguments: object) -> str:
    """The first word of a tool's line; `arguments` is empty for a tool without any."""
    rest = name.removeprefix("memory_")
    store, _, verb = rest.rpartition("_")
    if verb in _SYMBOLS:
        return _SYMBOLS[verb] + store
    return f"{rest}:" if arguments else rest


def _split(text: str, count: int) -> list[str]:
    """The last `count` fields of `text`, from the right; fewer if it has fewer bars. An escaped bar is none."""
    values, end = [], len(text)
    bar = end
    while len(values) < count - 1 and (bar := text.rfind("|", 0, bar)) >= 0:
        if text[bar - 1 : bar] != "\\":
            values.append(text[bar + 1 : end])
            end = bar
    return [value.strip() for value in (text[:end], *reversed(values))]


def _read(field: str, is_optional: bool) -> str | None:
    """The argument in a field; None where it is left out."""
    if is_optional and field in ("", _EMPTY):
        return "" if field else None
    return _unescaped(field)


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    pieces, start = [], 0
    while (position := text.find("\\", start)) >= 0:
        pieces.append(text[start:position])
        follower, code = text[position + 1 : position + 2], text[position + 2 : position + 6]
        if follower == "u" and len(code) == 4 and _HEX.issuperset(code):
            pieces.append(chr(int(code, 16)))
            start = position + 6
        elif follower and follower in "n\\|":
            pieces.append("\n" if follower == "n" else follower)
            start = position + 2
        else:
            pieces.append("\\")
            start = position + 1
    return "".join([*pieces, text[start:]])


def write(operations: Sequence[Operation], specs: Sequence[ToolSpec] = ()) -> str:
    tools = {spec.name: spec for spec in specs}
    return "\n".join(_write(operation, tools.get(operation.name)) for operation in operations)


def _write(operation: Operation, spec: ToolSpec | None) -> str:
    given = operation.arguments
    names = sorted(given if spec is None else spec.parameters)
    fields = [_escaped(str(given[name]), has_bars=not n) if name in given else "" for n, name in enumerate(names)]
    for number, name in enumerate(names):
        if spec is not None and name in spec.optional and given.get(name) == "":
            fields[number] = _EMPTY
    return " ".join([_mark(operation.name, names), " | ".join(fields)]) if names else _mark(operation.name, ())


def _escaped(text: str, *, has_bars: bool) -> str:
    text = without_marks(text.replace("\\", "\\\\").replace("\n", "\\n"), (thoughts.OPEN, thoughts.CLOSE))
    if not has_bars:
        text = text.replace("|", "\\|")
    if text[-1:].isspace():  # space at either end would be taken for the format's own
        text = text[:-1] + _code(text[-1])
    if text[:1].isspace():
        text = _code(text[0]) + text[1:]
    return text


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}"


def instructions(specs: Sequence[ToolSpec]) -> str:
    forms = []
    for spec in specs:
        shown = " | ".join(_form(spec, name) for name in sorted(spec.parameters))
        forms.append(f"{_mark(spec.name, spec.parameters)} {shown}".strip() + f"   ({spec.description})")
    return _INSTRUCTIONS.format(forms="\n".join(forms))


def _form(spec: ToolSpec, name: str) -> str:
    form = f"<{name}: {' or '.join(spec.choices[name])}>" if name in spec.choices else f"<{name}>"
    return form if name in spec.required else f"[{form}]"


def is_taught(shown: str) -> bool:
    return False
