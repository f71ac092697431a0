"""The text as it stands: all of it, outside of thoughts, is the argument of the memory's one tool (MemAgent).

For a memory that is one text and is written anew as a whole. A text that its budget cut off is kept, without its last
word and with a mark where it ends, so that it is never half a word and its writer sees it at the next turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finemem_jax.env.marks import cut_off
from finemem_jax.types import Call, Operation, ToolSpec

IS_TEXT = True  # one text instead of calls


def find(text: str, specs: Sequence[ToolSpec], *, is_cut: bool = False) -> Iterator[Call]:
    tools = [spec for spec in specs if len(spec.parameters) == 1]
    written = text.strip()
    if tools and written:
        (name,) = tools[0].parameters
        yield Call(tools[0].name, {name: cut_off(written) if is_cut else written})


def write(operations: Sequence[Operation], specs: Sequence[ToolSpec] = ()) -> str:
    """The last one's text: each replaces those before it."""
    return next((str(value) for value in (operations[-1].arguments.values() if operations else ())), "")


def instructions(specs: Sequence[ToolSpec]) -> str:
    return " ".join(["Write the text alone.", *(spec.description for spec in specs)])


def is_taught(shown: str) -> bool:
    return False


def unfit(specs: Sequence[ToolSpec]) -> str:
    is_one = len(specs) == 1 and len(specs[0].parameters) == 1
    return (
        "" if is_one else "writes one text, and fits a memory whose only tool takes one (config.memory.name=overwrite)"
    )
