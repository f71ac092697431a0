"""The policy thinks, and what it thought last is all that it remembers (MEM1, over a stream of chunks)."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.prompts import _boxed
from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = True
SHOWS_IDS = False

INSTRUCTIONS = """\
You read a long text piece by piece. Of all before the next piece you have only your state, which you wrote yourself. \
Think about what the piece changes and write the state anew, in a paragraph: what is still needed, and what is new."""


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    state = "\n".join(item.text for item in items) or "(empty)"
    task = f"Question at the end:\n{question}\n\n" if question else ""
    return INSTRUCTIONS, f"{task}Your state:\n{state}\n\nNext piece:\n{chunk}"


answer_messages, read_answer, write_answer = _boxed.answer_messages, _boxed.read_answer, _boxed.write_answer
