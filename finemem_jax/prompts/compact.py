"""The text alone, for the tiny policy: it learns its job from examples."""

from __future__ import annotations

import json
from collections.abc import Sequence

from finemem_jax.types import MemoryItem

DESCRIBES_TOOLS = False


def messages(chunk: str, items: Sequence[MemoryItem], *, max_operations: int, question: str = "") -> tuple[str, str]:
    # The key and the id are one token of the tiny tokenizer: the id of an item is then what follows its last word,
    # here and in an UPDATE, and looking it up is copying.
    memory = "\n".join(json.dumps({"content": item.text, "id": item.id}, ensure_ascii=False) for item in items)
    asked = f"\n{question}" if question else ""
    return "", f"<chunk>\n{chunk}\n</chunk>\n<memory>\n{memory}\n</memory>{asked}"


def extract_messages(context: str, question: str = "") -> tuple[str, str]:
    return "", f"<chunk>\n{context}\n</chunk>" + (f"\n{question}" if question else "")


def answer_messages(question: str, notes: Sequence[str], hint: str) -> tuple[str, str]:
    memory = "<memory>\n{}\n</memory>\n".format("\n".join(notes)) if notes else ""
    return hint, f"{memory}{question}"


read_answer = str
