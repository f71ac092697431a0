"""One text is the memory, and the policy is told what it is for (MemAgent).

The order is task, memory, text, as there. With `config.method.sees_question` the task is the question itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.prompts import _boxed
from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = True
SHOWS_IDS = False

INSTRUCTIONS = """\
You read a long text piece by piece. You see your task, your memory and the next piece. Write the new memory: keep \
what the task may need of the old one, add what the piece brings."""

_UNKNOWN = "Questions about any detail will be asked at the end and answered from your memory alone."


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    memory = "\n".join(item.text for item in items) or "(empty)"
    user = f"Task:\n{question or _UNKNOWN}\n\nMemory:\n{memory}\n\nNext piece:\n{chunk}"
    return INSTRUCTIONS, user


answer_messages, read_answer, write_answer = _boxed.answer_messages, _boxed.read_answer, _boxed.write_answer
