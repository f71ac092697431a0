"""Mem-α's memory: a core paragraph and two lists, of facts and of events, written by three tools.

The core is one text of at most `config.memory.max_item_tokens` tokens; one that is longer is refused, and its writer is
told at the next turn. The limits of `config.memory` hold for each list by itself, and so do the rules of memory/flat.py
on duplicates and on who wrote an item. Ids begin with the store's letter: "s3" is the third fact.

Two calls that succeed there are refused here, for they do nothing: to delete an id that is not there, and to insert
what the list says already.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finemem_jax.config import MemoryConfig
from finemem_jax.memory import flat
from finemem_jax.memory.flat import Flat
from finemem_jax.types import CountTokens, Memory, MemoryItem, Operation, Outcome, ToolSpec

CORE, SEMANTIC, EPISODIC = KINDS = ("core", "semantic", "episodic")
PINNED = (CORE,)
_SUFFIX = "_memory"
_LISTS = (f"{SEMANTIC}{_SUFFIX}", f"{EPISODIC}{_SUFFIX}")
_ALL = (f"{CORE}{_SUFFIX}", *_LISTS)
_WHICH = "The part of memory."

SPECS = (
    ToolSpec(
        "new_memory_insert",
        "Add an entry to the semantic or the episodic memory.",
        {"memory_type": _WHICH, "content": "The entry, to be understood by itself; an event with its time."},
        choices={"memory_type": _LISTS},
    ),
    ToolSpec(
        "memory_update",
        "Write the core memory anew as a whole, or replace an entry of another part.",
        {"memory_type": _WHICH, "new_content": "The new text.", "memory_id": "The id of the entry; not for the core."},
        optional=("memory_id",),
        choices={"memory_type": _ALL},
    ),
    ToolSpec(
        "memory_delete",
        "Empty the core memory, or remove an entry of another part.",
        {"memory_type": _WHICH, "memory_id": "The id of the entry; not for the core."},
        optional=("memory_id",),
        choices={"memory_type": _ALL},
    ),
)
_VERBS = {"new_memory_insert": "insert", "memory_update": "update", "memory_delete": "delete"}


def pinned_tokens(cfg: MemoryConfig) -> int:
    return cfg.max_item_tokens


@dataclass(frozen=True, slots=True)
class Layered(Memory):
    """Immutable. Each store is a flat memory; the core's holds one item at most."""

    stores: tuple[Flat, ...]  # in the order of KINDS
    items: tuple[MemoryItem, ...] = ()  # of the stores one behind the other, each oldest first
    refused: int = 0  # tokens of the core that was refused last, if none has been written since

    def tokens(self) -> int:
        return sum(store.tokens() for store in self.stores)

    def state(self) -> dict[str, Any]:
        return {"stores": [store.state() for store in self.stores], "refused": self.refused}

    def without(self, ids: Collection[str]) -> Layered:
        memory = self
        for kind, store in zip(KINDS, self.stores, strict=True):
            own = {f"#{name[1:]}" for name in ids if name[:1] == kind[0]}
            memory = memory._with(kind, store.without(own)) if own else memory
        return memory

    def notice(self) -> str:
        if not self.refused:
            return ""
        most = self.stores[0].cfg.max_item_tokens
        return f"Your last core memory was refused: it had {self.refused} tokens, at most {most} are allowed."

    def target(self, operation: Operation) -> str | None:
        """The id that is given, but for the core's."""
        if _kind(operation) == CORE or "memory_id" not in operation.arguments:
            return None
        return str(operation.arguments["memory_id"])

    def apply(self, operation: Operation, step: int) -> tuple[Layered, Outcome]:
        """The memory after one parsed operation, and what became of it. Never raises on what a model wrote."""
        if operation.error:
            return self, Outcome(operation.error, ok=False)
        kind = _kind(operation)
        if operation.name not in _VERBS or kind not in KINDS:
            return self, Outcome(f"malformed: unknown tool {operation.name[:40]!r}", ok=False)
        store = self.stores[KINDS.index(kind)]
        inner = _in_core(operation, store) if kind == CORE else _in_list(operation, kind)
        if inner is None:
            return self, Outcome("malformed: memory_id is missing", ok=False, verb=_VERBS[operation.name])
        after, outcome = store.apply(inner, step)
        outcome = replace(
            outcome,
            item=_outer(kind, outcome.item),
            evicted=tuple(_outer(kind, item) for item in outcome.evicted),
            verb="replace" if kind == CORE and operation.name == "memory_update" else _VERBS[operation.name],
        )
        if kind != CORE or "new_content" not in operation.arguments:
            return self._with(kind, after), outcome
        is_refused = outcome.status == "over limit"
        tokens = store.count_tokens(str(operation.arguments["new_content"])) if is_refused else 0
        return replace(self._with(kind, after), refused=tokens), outcome

    def _with(self, kind: str, store: Flat) -> Layered:
        place = KINDS.index(kind)
        stores = (*self.stores[:place], store, *self.stores[place + 1 :])
        own = tuple(replace(item, id=_outer(kind, item.id), kind=kind) for item in store.items)
        before = tuple(item for item in self.items if KINDS.index(item.kind) < place)
        behind = tuple(item for item in self.items if KINDS.index(item.kind) > place)
        return replace(self, stores=stores, items=(*before, *own, *behind))


def _kind(operation: Operation) -> str:
    return str(operation.arguments.get("memory_type", "")).removesuffix(_SUFFIX)


def _in_core(operation: Operation, store: Flat) -> Operation:
    """What the flat memory of the core is to do; to empty an empty one names an item that is not there."""
    (item,) = store.items or (None,)
    at = {} if item is None else {"id": item.id}
    if operation.name == "memory_delete":
        return Operation("memory_delete", {"id": "", **at})
    content = operation.arguments.get("new_content", operation.arguments.get("content", ""))
    return Operation("memory_insert" if item is None else "memory_update", {"content": content, **at})


def _in_list(operation: Operation, kind: str) -> Operation | None:
    """What the flat memory of a list is to do; None without the id that it needs."""
    if operation.name == "new_memory_insert":
        return Operation("memory_insert", {"content": operation.arguments["content"]})
    if "memory_id" not in operation.arguments:
        return None
    named = str(operation.arguments["memory_id"])
    at: dict[str, object] = {"id": f"#{named[1:]}" if named[:1] == kind[0] else ""}
    if operation.name == "memory_delete":
        return Operation("memory_delete", at)
    return Operation("memory_update", {"content": operation.arguments["new_content"], **at})


def _outer(kind: str, inner: str) -> str:
    return f"{kind[0]}{inner[1:]}" if inner else ""


def notes(items: Sequence[MemoryItem]) -> Sequence[MemoryItem]:
    """Its items."""
    return items


def from_notes(
    operations: Sequence[Operation], notes: Sequence[MemoryItem], fits: Callable[[str], bool]
) -> list[Operation]:
    """The first note of all is the core; labelled examples are facts, all other notes events."""
    kinds = {note.id: note.kind for note in notes}
    written: list[Operation] = []
    for operation in operations:
        content = str(operation.arguments.get("content", ""))
        kind = kinds.get(str(operation.arguments.get("id")), "")
        at = {} if kind == CORE else {"memory_id": operation.arguments.get("id")}
        if operation.name == "memory_insert" and CORE not in kinds.values():
            kinds[""] = CORE
            written.append(Operation("memory_update", {"memory_type": _ALL[0], "new_content": content}))
        elif operation.name == "memory_insert":
            part = _LISTS[0] if " => " in content else _LISTS[1]
            written.append(Operation("new_memory_insert", {"memory_type": part, "content": content}))
        elif operation.name == "memory_update":
            written.append(
                Operation("memory_update", {"memory_type": f"{kind}{_SUFFIX}", "new_content": content, **at})
            )
        elif operation.name == "memory_delete":
            written.append(Operation("memory_delete", {"memory_type": f"{kind}{_SUFFIX}", **at}))
    return written


def create(cfg: MemoryConfig, count_tokens: CountTokens) -> Layered:
    """An empty memory."""
    return Layered(tuple(Flat(cfg, count_tokens) for _ in KINDS))


def restore(
    cfg: MemoryConfig, count_tokens: CountTokens, items: Sequence[MemoryItem], state: Mapping[str, Any]
) -> Layered:
    """The memory that held these items, each store's oldest first, and had this `state()`, between two turns."""
    memory = Layered((), (), int(state["refused"]))
    for kind, own in zip(KINDS, state["stores"], strict=True):
        held = [replace(item, id=f"#{item.id[1:]}", kind="") for item in items if item.kind == kind]
        memory = replace(memory, stores=(*memory.stores, flat.restore(cfg, count_tokens, held, own)))
    return replace(memory, items=tuple(item for kind in KINDS for item in items if item.kind == kind))
