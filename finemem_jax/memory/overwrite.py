"""One text that is written anew as a whole (MemAgent; MEM1, whose state it is).

It holds `config.memory.max_tokens` tokens. What is longer is cut at the end of a word, and the mark behind the rest
tells so at the next turn: its writer learns to stay short, and nobody takes half a sentence for a whole one. The limits
of single items do not apply. What the text leaves out is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finemem_jax.config import MemoryConfig
from finemem_jax.env.marks import CUT
from finemem_jax.memory._substance import substance
from finemem_jax.types import CountTokens, Memory, MemoryItem, Operation, Outcome, ToolSpec

KIND = "text"
PINNED = (KIND,)  # seen as a whole or not at all: its writer cannot keep what it does not see

SPECS = (
    ToolSpec(
        "memory_replace",
        "It replaces the whole memory: what it leaves out is forgotten.",
        {"content": "The new memory."},
    ),
)


def pinned_tokens(cfg: MemoryConfig) -> int:
    return cfg.max_tokens


@dataclass(frozen=True, slots=True)
class Overwrite(Memory):
    """An immutable text, as one item with the id "#1", or nothing."""

    cfg: MemoryConfig
    count_tokens: CountTokens
    items: tuple[MemoryItem, ...] = ()

    def tokens(self) -> int:
        return sum(self.count_tokens(item.text) for item in self.items)

    def without(self, ids: Collection[str]) -> Overwrite:
        return replace(self, items=tuple(item for item in self.items if item.id not in ids))

    def apply(self, operation: Operation, step: int) -> tuple[Overwrite, Outcome]:
        """The memory after one parsed operation, and what became of it. Never raises on what a model wrote.

        A text that says what memory says already changes nothing, not even who wrote it."""
        if operation.error:
            return self, Outcome(operation.error, ok=False)
        if operation.name != SPECS[0].name:
            return self, Outcome(f"malformed: unknown tool {operation.name[:40]!r}", ok=False)
        text = str(operation.arguments["content"]).strip()
        if not substance(text):
            return self, Outcome("malformed: empty content", ok=False, verb="replace")
        if self.count_tokens(text) > self.cfg.max_tokens:
            text = self._cut(text)
            if not text:
                return self, Outcome("over limit", ok=False, verb="replace")
        old = self.items[0] if self.items else None
        if old is not None and substance(old.text) == substance(text):
            return self, Outcome("skipped", ok=True, item=old.id, verb="skip")
        item = MemoryItem("#1", text, step, KIND, (*(old.writers if old else ()), step))
        return replace(self, items=(item,)), Outcome("applied", True, item.id, verb="replace")

    def _cut(self, text: str) -> str:
        """The longest beginning that fits with the mark behind it; "" where none does. It ends with a word, or, where
        not even one fits or nothing stands between the words, with a character."""
        words = [word.end() for word in re.finditer(r"\S+", text)]
        return self._longest(text, words) or self._longest(text, range(1, words[0]))

    def _longest(self, text: str, ends: Sequence[int]) -> str:
        """The longest beginning at one of `ends`, the last of which is not tried, with the mark."""
        fits, breaks = 0, len(ends)  # so many of the ends fit; so many do not
        while breaks - fits > 1:
            middle = (fits + breaks) // 2
            is_short = self.count_tokens(f"{text[: ends[middle - 1]]} {CUT}") <= self.cfg.max_tokens
            fits, breaks = (middle, breaks) if is_short else (fits, middle)
        return f"{text[: ends[fits - 1]]} {CUT}" if fits else ""


_NOTHING = "nothing so far"  # stands where there is no note: no text may be empty


def notes(items: Sequence[MemoryItem]) -> list[MemoryItem]:
    """Its lines."""
    lines = [line for item in items for line in item.text.splitlines() if line.strip() and line != _NOTHING]
    return [MemoryItem(f"#{number}", line, 0, KIND) for number, line in enumerate(lines, start=1)]


def from_notes(
    operations: Sequence[Operation], notes: Sequence[MemoryItem], fits: Callable[[str], bool]
) -> list[Operation]:
    """The text with its notes as they are afterwards, a line each; the first ones leave while it is too long."""
    lines = {note.id: note.text for note in notes}
    for number, operation in enumerate(operations):
        if operation.name == "memory_delete":
            lines.pop(str(operation.arguments["id"]), None)
        elif "content" in operation.arguments:
            lines[str(operation.arguments.get("id", f"new {number}"))] = str(operation.arguments["content"])
    kept = list(lines.values())
    while len(kept) > 1 and not fits("\n".join(kept)):
        del kept[0]
    return [Operation(SPECS[0].name, {"content": "\n".join(kept) or _NOTHING})]


def create(cfg: MemoryConfig, count_tokens: CountTokens) -> Overwrite:
    """An empty memory."""
    return Overwrite(cfg, count_tokens)


def restore(
    cfg: MemoryConfig, count_tokens: CountTokens, items: Sequence[MemoryItem], state: Mapping[str, Any]
) -> Overwrite:
    """The memory that held this text."""
    return Overwrite(cfg, count_tokens, tuple(items))
