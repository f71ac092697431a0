"""A user's memory as a process holds it: made from the log, and kept up with it line by line.

Whatever wrote a line, this process or another, it is applied here in the same way, so that all of them hold the same
memory at the same line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from finemem_jax.config import resolve
from finemem_jax.env.environment import MEMORY, Environment, alternate, applied, fitting, retriever
from finemem_jax.manager.ranking import Ranking
from finemem_jax.manager.store import Line, Store
from finemem_jax.types import Memory, MemoryItem, Operation, Outcome, Retrieved, Step

CHANGES = ("insert", "update", "replace", "delete", "evict", "forget")


class Held:
    """The memory of one user at a line of the log. Its owner holds a lock around every call."""

    def __init__(self, env: Environment, store: Store, user: str):
        self._env, self._store, self._user = env, store, user
        self._restore = getattr(resolve(MEMORY, env.memory.name), "restore", None)
        self._load()

    def _load(self) -> None:
        found, state, self.position = self._store.held(self._user)
        self.turns = int(state.get("turns", 0))
        self.lines: dict[str, Line] = {line.item: line for line in found}  # what was last written of each item
        self._ranked: _Ranked | None = None
        self._finder: Callable[[str], tuple[Retrieved, ...]] | None = None
        if self._restore is None:
            self.memory = self._replayed()
        elif not state:
            self.memory = self._env.empty_memory()
        else:
            items = list(map(item_of, found))
            self.memory = self._restore(self._env.memory, self._env.count_tokens, items, state["memory"])

    def _replayed(self) -> Memory:
        """The memory of a plug-in that cannot be made from its items: its operations, one after the other."""
        memory = self._env.empty_memory()
        for line in self._store.lines(self._user):
            memory = _reapplied(memory, line)
            if line.verb == "forget":
                memory = memory.without([line.item])
        return memory

    def catch_up(self) -> None:
        """Takes over what others wrote."""
        if self._store.position(self._user) == self.position:
            return
        lines = self._store.lines(self._user, after=self.position)
        if any(line.verb == "forget" for line in lines):
            self._load()
            return
        memory = self.memory
        for line in lines:
            memory = _reapplied(memory, line)
        state = json.loads(next((line.state for line in reversed(lines) if line.state), "{}"))
        if self._restore is not None and memory.state() != state.get("memory"):
            self._load()  # a refusal left a trace that is no item
        else:
            self.take(memory, lines)

    def take(self, memory: Memory, lines: Sequence[Line]) -> None:
        """The memory after the lines, which are the log's next."""
        self.memory, self.position, self._finder = memory, lines[-1].number, None
        state = next((line.state for line in reversed(lines) if line.state), None)
        self.turns = int(json.loads(state)["turns"]) if state else self.turns
        for line in lines:
            if not line.item:
                continue
            if line.text is None:
                self.lines.pop(line.item, None)
            else:
                self.lines[line.item] = line
            if self._ranked is not None:
                self._ranked.change(line)

    def state_of(self, memory: Memory, turns: int) -> str:
        return json.dumps({"turns": turns, "memory": memory.state()})

    # ---- recalling ----

    def recall(self, question: str, k: int = 0) -> tuple[Retrieved, ...]:
        """What training's answerer would be shown for the question; k: another number of items."""
        cfg = self._env.retrieval
        if cfg.name == "bm25" and cfg.select == "search" and cfg.split_by == "kind":
            if self._ranked is None:
                self._ranked = _Ranked(self._env, self.memory, self.lines)
            return self._ranked.retrieve(question, k or cfg.per_kind or cfg.k)
        if k:
            return retriever(self.memory.items, replace(self._env, retrieval=replace(cfg, k=k)))(question)
        if self._finder is None:
            self._finder = retriever(self.memory.items, self._env)
        return self._finder(question)


class _Ranked:
    """`retriever` over a memory that changes item by item."""

    def __init__(self, env: Environment, memory: Memory, lines: Mapping[str, Line]):
        self._env, self._memory_name = env, env.memory.name
        self._rankings: dict[str, Ranking] = {}  # by kind where each is searched by itself; else "" for all
        self._pinned: dict[str, Line] = {}
        self._kinds: dict[str, int] = {}  # in the order in which the memory lists them
        self._lines: dict[str, Line] = {}
        self._places: dict[str, int] = {}
        self._next = 0
        for item in memory.items:
            self._kinds.setdefault(item.kind, len(self._kinds))
            self.change(lines[item.id])

    def change(self, line: Line) -> None:
        old = self._lines.pop(line.item, None)
        if old is not None and line.text is None:
            self._pinned.pop(line.item, None)
            self._places.pop(line.item, None)
            self._ranking(old.kind).remove(line.item)
        if line.text is None:
            return
        self._lines[line.item] = line
        if line.item not in self._places:
            self._places[line.item] = self._next
            self._next += 1
        if line.kind not in self._kinds:
            self._order_kinds(line.kind)
        if line.kind in self._env.always_read:
            self._pinned[line.item] = line
        else:
            self._ranking(line.kind).put(line.item, line.text, self._place(line))

    def _order_kinds(self, kind: str) -> None:
        """A kind that comes late may stand before those that are there: their places move."""
        known = getattr(resolve(MEMORY, self._memory_name), "KINDS", ())
        kinds = [*self._kinds, kind]
        kinds.sort(key=lambda name: known.index(name) if name in known else len(known))
        self._kinds = {name: i for i, name in enumerate(kinds)}
        for line in self._lines.values():
            if line.kind not in self._env.always_read and line.kind != kind:
                self._ranking(line.kind).put(line.item, line.text or "", self._place(line))

    def _place(self, line: Line) -> int:
        return self._kinds[line.kind] << 40 | self._places[line.item]

    def _ranking(self, kind: str) -> Ranking:
        name = kind if self._env.retrieval.per_kind else ""
        if name not in self._rankings:
            self._rankings[name] = Ranking(self._env.retrieval)
        return self._rankings[name]

    def retrieve(self, question: str, k: int) -> tuple[Retrieved, ...]:
        found = [self._rankings[name].search(question, k) for name in sorted(self._rankings)]
        scores = {item: score for of_kind in found for item, score in of_kind}
        pinned = sorted(self._pinned, key=lambda item: self._place(self._pinned[item]))
        order = [*pinned, *alternate(*([item for item, _ in of_kind] for of_kind in found))]
        lines = [self._lines[item] for item in fitting(order, lambda item: self._lines[item].text or "", self._env)]
        return tuple(_retrieved(line, scores.get(line.item, 0.0)) for line in lines)


def _retrieved(line: Line, score: float) -> Retrieved:
    return Retrieved(line.item, line.written_at or 0, line.writers, line.text or "", score, line.kind)


def item_of(line: Line) -> MemoryItem:
    return MemoryItem(line.item, line.text or "", line.written_at or 0, line.kind, line.writers)


def _reapplied(memory: Memory, line: Line) -> Memory:
    """The memory after an operation of the log that changed something."""
    if line.operation is None or line.status != "applied":
        return memory
    said = json.loads(line.operation)
    return memory.apply(Operation(said["name"], said["arguments"]), line.turn or 0)[0]


def changes(step: Step, before: Memory, env: Environment, visible: Sequence[MemoryItem], base: Line) -> list[Line]:
    """The lines of a writing turn: one for each operation, and one for each item that had to make room.

    base: what all of them share."""
    lines = []
    each = applied(before, step.operations, step.index, env.memory, visible)
    for operation, (memory, outcome) in zip(step.operations, each, strict=True):
        said = json.dumps({"name": operation.name, "arguments": operation.arguments, "error": operation.error})
        line = replace(base, verb=outcome.verb or "malformed", status=outcome.status, operation=said)
        lines.append(_with_item(line, outcome, memory))
        lines += [replace(base, verb="evict", item=item) for item in outcome.evicted]
    return lines


def _with_item(line: Line, outcome: Outcome, memory: Memory) -> Line:
    if not (outcome.item and outcome.status == "applied"):
        return line
    item = next((item for item in reversed(memory.items) if item.id == outcome.item), None)
    if item is None:
        return replace(line, item=outcome.item)
    return replace(line, item=item.id, text=item.text, kind=item.kind, written_at=item.written_at, writers=item.writers)
