"""Fine-Mem's memory: one flat list of items, written by INSERT, UPDATE, DELETE and SKIP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter

from finemem_jax.config import MemoryConfig
from finemem_jax.types import CountTokens, Memory, MemoryItem, Operation, Outcome, ToolSpec

SPECS = (
    ToolSpec("memory_insert", "Add a new item to memory.", {"content": "What to remember, as one short statement."}),
    ToolSpec(
        "memory_update",
        "Replace the content of an item of memory, when new information supersedes it.",
        # The content first: which item it supersedes is then looked up by what has just been written. With the id first
        # the tiny policy named the right item 1 time in 7.
        {"content": "The new content.", "id": "The id of the item it replaces."},
    ),
    ToolSpec("memory_delete", "Remove an item from memory.", {"id": "The id of the item."}),
    ToolSpec("memory_skip", "Leave memory as it is: nothing here is worth keeping.", {}),
)


_TEXT = attrgetter("text")


@dataclass(frozen=True, slots=True)
class Flat(Memory):
    """An immutable flat store. Ids are "#1", "#2", … in order of insertion and are never reused."""

    cfg: MemoryConfig
    count_tokens: CountTokens
    items: tuple[MemoryItem, ...] = ()
    next_id: int = 1
    held: int = (
        0  # tokens of all items, carried along: summed at every write they cost more than all else at 5,000 items
    )

    def tokens(self) -> int:
        return self.held

    def apply(self, operation: Operation, step: int) -> tuple[Flat, Outcome]:
        """The memory after one parsed operation, and what became of it. Never raises on what a model wrote."""
        if operation.error:
            return self, Outcome(operation.error, ok=False)
        match operation.name:
            case "memory_insert":
                return self._write(None, str(operation.arguments["content"]), step)
            case "memory_update":
                item = self._find(operation.target)
                if item is None:
                    return self, Outcome("unknown id", ok=False)
                return self._write(item, str(operation.arguments["content"]), step)
            case "memory_delete":
                item = self._find(operation.target)
                if item is None:
                    return self, Outcome("unknown id", ok=False)
                rest = tuple(other for other in self.items if other is not item)
                held = self.held - self.count_tokens(item.text)
                return replace(self, items=rest, held=held), Outcome("applied", ok=True, item=item.id)
            case "memory_skip":
                return self, Outcome("skipped", ok=True)
        return self, Outcome(f"malformed: unknown tool {operation.name[:40]!r}", ok=False)

    def _find(self, item_id: str) -> MemoryItem | None:
        return next((item for item in self.items if item.id == item_id), None)

    def _write(self, old: MemoryItem | None, text: str, step: int) -> tuple[Flat, Outcome]:
        """INSERT (`old` is None) or UPDATE of `old`, under the limits and the overflow rule."""
        if not text.strip():
            return self, Outcome("malformed: empty content", ok=False)
        if text in map(_TEXT, self.items):
            return self, Outcome("duplicate", ok=False)
        tokens = self.count_tokens(text)
        if tokens > self.cfg.max_item_tokens:
            return self, Outcome("over limit", ok=False)
        held = self.held + tokens
        if old is None:
            item = MemoryItem(f"#{self.next_id}", text, step, writers=(step,))
            items, next_id = (*self.items, item), self.next_id + 1
        else:
            writers = old.writers if old.written_at == step else (*old.writers, step)
            item = replace(old, text=text, written_at=step, writers=writers)
            items, next_id = tuple(item if other is old else other for other in self.items), self.next_id
            held -= self.count_tokens(old.text)
        evicted: list[str] = []
        while len(items) > self.cfg.max_items or held > self.cfg.max_tokens:
            victims = [other for other in items if other is not item]
            if self.cfg.overflow == "refuse" or not victims:
                return self, Outcome("over limit", ok=False)
            oldest = min(victims, key=lambda other: other.written_at)  # ties: the first in the list
            items = tuple(other for other in items if other is not oldest)
            held -= self.count_tokens(oldest.text)
            evicted.append(oldest.id)
        return replace(self, items=items, next_id=next_id, held=held), Outcome("applied", True, item.id, tuple(evicted))


def create(cfg: MemoryConfig, count_tokens: CountTokens) -> Flat:
    """An empty memory."""
    return Flat(cfg, count_tokens)
