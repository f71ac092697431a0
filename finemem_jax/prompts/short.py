"""A few sentences, for a small pretrained model that is to be trained: it has to learn the job anyway, and every token
of instruction is read at every turn."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = True

INSTRUCTIONS = """\
You keep a memory of what you read. Write down each fact, event or labelled example of the text as one short item that \
can be understood by itself. If the text changes an item of memory, update that item by its id. Leave small talk out. \
At most {max_operations} operations; if there is nothing to keep, skip."""


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    # The id follows the item's last word, as it does in an update: looking it up is copying.
    memory = "\n".join("{} | {}".format(item.text.replace("\n", "\\n"), item.id) for item in items)
    asked = f"\n\nQuestion at the end:\n{question}" if question else ""
    user = f"Text:\n{chunk}\n\nMemory:\n{memory or 'empty'}{asked}"
    return INSTRUCTIONS.format(max_operations=max_operations), user
