"""A final answer in a box: what is asked for, and what is read of it."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.env.scoring import last_boxed

INSTRUCTIONS = "Answer the question from your memory. Write the answer alone, as short as it can be, in \\boxed{}."


def answer_messages(question: str, notes: Sequence[str], hint: str) -> tuple[str, str]:
    memory = "\n".join(notes) or "(empty)"
    return f"{INSTRUCTIONS} {hint}".strip(), f"Memory:\n{memory}\n\nQuestion: {question}"


def read_answer(text: str) -> str:
    """What stands in the last box; "" without one: an answer that does not say where it is is none."""
    return last_boxed(text) or ""


def write_answer(answer: str) -> str:
    return f"\\boxed{{{answer}}}"
