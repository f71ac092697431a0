"""Fine-Mem's memory: one flat list of items, written by INSERT, UPDATE, DELETE and SKIP.

φ(m), the step that wrote an item, decides who is paid for it. It moves only with what an item says: a text that differs
from one in memory in case, spaces or a full stop is a duplicate, and what a step removes and writes again (as another
item, or back over its own change) still belongs to the step that first wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from finemem_jax.config import MemoryConfig
from finemem_jax.memory._substance import BySubstance, substance
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


_VERBS = {"memory_insert": "insert", "memory_update": "update", "memory_delete": "delete", "memory_skip": "skip"}


@dataclass(frozen=True, slots=True)
class Flat(Memory):
    """An immutable flat store. Ids are "#1", "#2", … in order of insertion and are never reused."""

    cfg: MemoryConfig
    count_tokens: CountTokens
    items: tuple[MemoryItem, ...] = ()
    next_id: int = 1
    # tokens of all items, carried along: summed at every write they cost more than all else at 5,000 items
    held: int = 0
    step: int = -1  # of the last operation that applied
    # what the items say, carried along: no write looks at all of them
    said: BySubstance = field(default=BySubstance(), compare=False)
    before: BySubstance = field(default=BySubstance(), hash=False)  # as that step found it

    def tokens(self) -> int:
        return self.held

    def state(self) -> dict[str, Any]:
        return {"next_id": self.next_id, "held": self.held}

    def without(self, ids: Collection[str]) -> Flat:
        rest = tuple(item for item in self.items if item.id not in ids)
        gone = sum(self.count_tokens(item.text) for item in self.items if item.id in ids)
        return replace(self, items=rest, held=self.held - gone, said=BySubstance.of(rest))

    def target(self, operation: Operation) -> str | None:
        return str(operation.arguments["id"]) if "id" in operation.arguments else None

    def apply(self, operation: Operation, step: int) -> tuple[Flat, Outcome]:
        """The memory after one parsed operation, and what became of it. Never raises on what a model wrote."""
        if operation.error:
            return self, Outcome(operation.error, ok=False)
        memory, outcome = self._apply(operation, step)
        return memory, replace(outcome, verb=_VERBS.get(operation.name, ""))

    def _apply(self, operation: Operation, step: int) -> tuple[Flat, Outcome]:
        match operation.name:
            case "memory_insert":
                return self._write(None, str(operation.arguments["content"]), step)
            case "memory_update":
                item = self._find(str(operation.arguments["id"]))
                if item is None:
                    return self, Outcome("unknown id", ok=False)
                return self._write(item, str(operation.arguments["content"]), step)
            case "memory_delete":
                item = self._find(str(operation.arguments["id"]))
                if item is None:
                    return self, Outcome("unknown id", ok=False)
                rest = tuple(other for other in self.items if other is not item)
                held = self.held - self.count_tokens(item.text)
                said = self.said.removing(substance(item.text))
                after = replace(self, items=rest, held=held, said=said, step=step, before=self._found_by(step))
                return after, Outcome("applied", ok=True, item=item.id)
            case "memory_skip":
                return self, Outcome("skipped", ok=True)
        return self, Outcome(f"malformed: unknown tool {operation.name[:40]!r}", ok=False)

    def _find(self, item_id: str) -> MemoryItem | None:
        return next((item for item in self.items if item.id == item_id), None)

    def _found_by(self, step: int) -> BySubstance:
        """What the items said when `step` began."""
        return self.before if step == self.step else self.said

    def _write(self, old: MemoryItem | None, text: str, step: int) -> tuple[Flat, Outcome]:
        """INSERT (`old` is None) or UPDATE of `old`, under the limits and the overflow rule."""
        says = substance(text)
        if not says:
            return self, Outcome("malformed: empty content", ok=False)
        if self.said.find(says) is not None:
            return self, Outcome("duplicate", ok=False)
        tokens = self.count_tokens(text)
        if tokens > self.cfg.max_item_tokens:
            return self, Outcome("over limit", ok=False)
        held = self.held + tokens
        before = self._found_by(step)
        known = before.find(says)
        if known is not None:
            written_at, writers = known.written_at, known.writers
        elif old is None or old.written_at == step:
            written_at, writers = step, (step,) if old is None else old.writers
        else:
            written_at, writers = step, (*old.writers, step)
        if old is None:
            item = MemoryItem(f"#{self.next_id}", text, written_at, writers=writers)
            items, next_id = (*self.items, item), self.next_id + 1
        else:
            item = replace(old, text=text, written_at=written_at, writers=writers)
            items, next_id = tuple(item if other is old else other for other in self.items), self.next_id
            held -= self.count_tokens(old.text)
        said = self.said if old is None else self.said.removing(substance(old.text))
        said = said.adding(says, item)
        evicted: list[str] = []
        while len(items) > self.cfg.max_items or held > self.cfg.max_tokens:
            victims = [other for other in items if other is not item]
            if self.cfg.overflow == "refuse" or not victims:
                return self, Outcome("over limit", ok=False)
            oldest = min(victims, key=lambda other: other.written_at)  # ties: the first in the list
            items = tuple(other for other in items if other is not oldest)
            held -= self.count_tokens(oldest.text)
            said = said.removing(substance(oldest.text))
            evicted.append(oldest.id)
        after = replace(self, items=items, next_id=next_id, held=held, said=said, step=step, before=before)
        return after, Outcome("applied", True, item.id, tuple(evicted))


def create(cfg: MemoryConfig, count_tokens: CountTokens) -> Flat:
    """An empty memory."""
    return Flat(cfg, count_tokens)


def restore(
    cfg: MemoryConfig, count_tokens: CountTokens, items: Sequence[MemoryItem], state: Mapping[str, Any]
) -> Flat:
    """The memory that held these items, oldest first, and had this `state()`, between two turns."""
    said = BySubstance.of(items)
    return Flat(cfg, count_tokens, tuple(items), int(state["next_id"]), int(state["held"]), said=said)
