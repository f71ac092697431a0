"""The last thought is the memory: what stands in the last `<think>` block, whatever is said beside it (MEM1).

For a memory that is one text and is written anew as a whole. A text without a thought writes nothing; one that ends
inside its last thought has not finished writing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finemem_jax.env.thoughts import CLOSE, OPEN, is_thinking
from finemem_jax.types import Call, Operation, ToolSpec

IS_TEXT = True  # one text instead of calls
READS_THOUGHTS = True

_INSTRUCTIONS = f"Write it between {OPEN} and {CLOSE}; only the last such block is kept."


def find(text: str, specs: Sequence[ToolSpec], *, is_cut: bool = False) -> Iterator[Call]:
    tools = [spec for spec in specs if len(spec.parameters) == 1]
    if not tools or (CLOSE not in text and OPEN not in text):
        return
    (name,) = tools[0].parameters
    if is_thinking(text):
        yield Call(tools[0].name, error=f"the last {OPEN} is not closed")
        return
    end = text.rfind(CLOSE)
    before = text[:end]
    written = before[max(before.rfind(tag) + len(tag) if tag in before else 0 for tag in (OPEN, CLOSE)) :].strip()
    yield Call(tools[0].name, {name: written}) if written else Call(tools[0].name, error="the last thought is empty")


def write(operations: Sequence[Operation], specs: Sequence[ToolSpec] = ()) -> str:
    """The last one's text: each replaces those before it."""
    values = operations[-1].arguments.values() if operations else ()
    return "".join(f"{OPEN}\n{value}\n{CLOSE}" for value in values)


def instructions(specs: Sequence[ToolSpec]) -> str:
    return " ".join([_INSTRUCTIONS, *(spec.description for spec in specs)])


def is_taught(shown: str) -> bool:
    return False


def unfit(specs: Sequence[ToolSpec]) -> str:
    is_one = len(specs) == 1 and len(specs[0].parameters) == 1
    return (
        "" if is_one else "writes one text, and fits a memory whose only tool takes one (config.memory.name=overwrite)"
    )
