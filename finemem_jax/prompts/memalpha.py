"""A memory of several parts, each shown by itself: Mem-α's instructions, in our words.

The chunk comes before the memory here, for the sake of prefix reuse; there the memory stands in the system turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = True

INSTRUCTIONS = """\
You keep the memory of an assistant. You read one new chunk at a time and never see it again; later, questions are \
answered from your memory alone. It has three parts:
- core memory: one paragraph of a few sentences that is always in sight: who the user is, what a book has told so far, \
what the labels of a classification mean.
- semantic memory: facts, definitions and labelled examples, one an entry.
- episodic memory: what somebody did or what happened, one event an entry, each with its time.
Only some of the entries are shown to you. When the chunk changes what an entry or the core says, update it instead of \
adding another. Make all calls in this one reply, at most {max_operations}."""

_TITLES = {"core": "Core memory", "semantic": "Semantic memory", "episodic": "Episodic memory"}


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    parts = [_part(kind, items) for kind in dict.fromkeys((*_TITLES, *(item.kind for item in items)))]
    asked = [f"What will be asked:\n{question}"] if question else []
    user = "\n\n".join([f"<new_chunk>\n{chunk}\n</new_chunk>", *parts, *asked])
    return INSTRUCTIONS.format(max_operations=max_operations), user


def _part(kind: str, items: Sequence[MemoryItem]) -> str:
    listed = "\n".join(f"[{item.id}] {item.text}" for item in items if item.kind == kind) or "Empty."
    return f"{_TITLES.get(kind, 'Memory')}:\n{listed}"
