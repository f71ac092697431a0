"""One operation a line: short to write, hard to get wrong, for small language models.

    + Anna moved to Oslo in May.              memory_insert   content
    = Anna moved to Bergen in June. | #3      memory_update   content | id
    - #3                                      memory_delete   id
    skip                                      memory_skip

A line is a call if its first word is the mark of a tool; every other line is prose, neither an operation nor an error.
The mark of a tool comes of its name: `+`, `=`, `-` stand for insert, update, delete, followed by the store where it
is another than "memory" (core_insert: `+core`); any other tool is named by its verb, with a colon if it takes
arguments (`replace:`). Arguments stand in the order of their names, between bars; the first one may hold bars itself.

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
            yield Call(spec.name, dict(zip(names, values, strict=True)))
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
    """The last `count` arguments in `text`, from the right; fewer if it has fewer bars. An escaped bar is none."""
    values, end = [], len(text)
    bar = end
    while len(values) < count - 1 and (bar := text.rfind("|", 0, bar)) >= 0:
        if text[bar - 1 : bar] != "\\":
            values.append(text[bar + 1 : end])
            end = bar
    return [_unescaped(value.strip()) for value in (text[:end], *reversed(values))]


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


def write(operations: Sequence[Operation]) -> str:
    return "\n".join(_write(operation) for operation in operations)


def _write(operation: Operation) -> str:
    arguments = [str(operation.arguments[name]) for name in sorted(operation.arguments)]
    escaped = [_escaped(value, has_bars=not number) for number, value in enumerate(arguments)]
    return " ".join([_mark(operation.name, arguments), " | ".join(escaped)]) if escaped else _mark(operation.name, ())


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
        shown = " | ".join(f"<{name}>" for name in sorted(spec.parameters))
        forms.append(f"{_mark(spec.name, spec.parameters)} {shown}".strip() + f"   ({spec.description})")
    return _INSTRUCTIONS.format(forms="\n".join(forms))


def is_taught(shown: str) -> bool:
    return False
