"""Instructions for a pretrained model of a billion parameters and more."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = True

INSTRUCTIONS = """\
You maintain the long-term memory of an assistant. You read one new chunk of text at a time and never see it \
again; later, questions are answered from your memory alone, by searching it for the words of the question.

Write with tool calls, all of them in this one reply:
- Store each lasting fact, event, preference or labelled example as a short item that can be understood by itself \
(who, what, when). Keep labelled examples with their label.
- When the chunk supersedes an item that is listed below, update that item by its id instead of adding a second one.
- Delete items that turned out wrong. Leave small talk out. If nothing is worth keeping, skip.
You may write at most {max_operations} operations in this turn."""


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    memory = "\n".join(f"[{item.id}] {item.text}" for item in items) or "Empty."
    asked = f"\n\nWhat will be asked:\n{question}" if question else ""
    user = f"<chunk>\n{chunk}\n</chunk>\n\nItems of memory you can update or delete by id:\n{memory}{asked}"
    return INSTRUCTIONS.format(max_operations=max_operations), user
