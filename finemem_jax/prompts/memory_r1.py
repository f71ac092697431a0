"""A turn of a conversation beside the entries that are most like it, and an answer behind a selection (Memory-R1).

The instructions are in our own words. Which entries are shown is `config.memory.view` and `config.retrieval`.
"""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.env.speakers import speaker_of
from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = True
ANSWER = "**Answer:**"

INSTRUCTIONS = """\
You keep the memory of a conversation. You see what one turn of it says and the entries of memory that are most like \
it. Add what memory does not say yet. Update an entry that the turn makes more exact or goes on with, and keep in it \
what still holds. Delete an entry that the turn makes wrong. Change nothing where memory says it already. An entry \
begins with its day and the name of who it is about: [8 May 2023] Anna: She moved to Oslo. Change at most \
{max_operations} entries."""

ANSWERING = f"""\
You answer a question about people who talked with each other, from entries of memory, each with its day. Many of them \
are beside the point. First write out the entries that the question needs. Then write {ANSWER} and the answer alone, \
in at most six words."""


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    entries = "\n".join(f"[{item.id}] {item.text}" for item in items) or "(none)"
    asked = f"\n\nWhat will be asked:\n{question}" if question else ""
    return INSTRUCTIONS.format(
        max_operations=max_operations
    ), f"New:\n{chunk}\n\nEntries most like it:\n{entries}{asked}"


def answer_messages(question: str, notes: Sequence[str], hint: str) -> tuple[str, str]:
    """The entries of every participant by themselves, in the order they come."""
    by_name: dict[str, list[str]] = {}
    for note in notes:
        by_name.setdefault(speaker_of(note), []).append(note)
    parts = [f"Memory{f' of {name}' if name else ''}:\n" + "\n".join(found) for name, found in by_name.items()]
    return f"{ANSWERING} {hint}".strip(), "\n\n".join([*(parts or ["Memory:\n(none)"]), f"Question: {question}"])


def read_answer(text: str) -> str:
    """What stands behind the last mark; "" without one: an answer that does not say where it is is none."""
    _, mark, answer = text.rpartition(ANSWER)
    return answer.strip() if mark else ""


def write_answer(answer: str) -> str:
    return f"{ANSWER} {answer}"
