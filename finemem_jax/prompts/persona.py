"""One text is the memory: who the user is and what they prefer, in bullet points (PersonaMem-v2's agentic memory).

Its writer is not told what will be asked. The answer is the letter of an option, in a box, after a thought.
"""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.prompts import _boxed
from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = True
SHOWS_IDS = False

INSTRUCTIONS = """\
You get to know a user by reading their chats with an assistant, piece by piece. Your memory is one text about this \
user: short bullet points, in English, on who they are, how they live, what they like and dislike, and what they asked \
not to be told. Write it anew: keep what still holds, correct what has changed, add what the piece shows of the user, \
said or only to be noticed. Leave out what says nothing about them. Later an assistant will choose its replies by your \
memory alone."""

_ANSWER = """\
You choose the reply that fits a user, by what your memory says about them. First think between <think> and </think>, \
then give the letter of one option in \\boxed{}."""


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    memory = "\n".join(item.text for item in items) or "(empty)"
    task = f"What will be asked:\n{question}\n\n" if question else ""
    return INSTRUCTIONS, f"{task}About the user:\n{memory}\n\nNext piece of the chats:\n{chunk}"


def answer_messages(question: str, notes: Sequence[str], hint: str) -> tuple[str, str]:
    memory = "\n".join(notes) or "(empty)"
    return f"{_ANSWER} {hint}".strip(), f"About the user:\n{memory}\n\nThe user says:\n{question}"


read_answer, write_answer = _boxed.read_answer, _boxed.write_answer
