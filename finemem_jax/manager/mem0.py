"""`Manager` under mem0's names, for programs that speak them already: add, search, get_all, get, history, delete.

    from finemem_jax import Manager, Mem0

    memory = Mem0(Manager("http://localhost:8000/v1", "memory.sqlite", {"folder": "my-manager"}))
    memory.add("Anna moved to Oslo.", user_id="mina")
    memory.search("Where does Anna live?", filters={"user_id": "mina"})["results"][0]["memory"]

What is not ours is refused, not passed over: metadata, expiry, rerankers, other filters. `infer=False` is refused too:
what is kept is the model's to decide. A memory's id names its user, since `delete` says nobody else's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.manager.verbs import Change, Manager, Recalled

_EVENTS = {"insert": "ADD", "update": "UPDATE", "replace": "UPDATE", "delete": "DELETE", "evict": "DELETE",
           "forget": "DELETE"}  # fmt: skip
_SCOPES = ("user_id", "agent_id", "run_id")
MOST = 20  # results, where nobody says how many


class Mem0:
    def __init__(self, manager: Manager):
        self.manager = manager

    def add(
        self,
        messages: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        timestamp: object = None,
        infer: bool = True,
        **others: object,
    ) -> dict[str, Any]:
        """Lets the model read; returns what it wrote as {"results": [{"id", "memory", "event"}]}."""
        _refuse("add", others)
        if not infer:
            raise UserError("add(infer=False): what is kept is the model's to decide, and it reads every text")
        user = _user({"user_id": user_id, "agent_id": agent_id, "run_id": run_id})
        said = [messages] if isinstance(messages, Mapping) else messages
        written = self.manager.read(said, time="" if timestamp is None else str(timestamp), user=user)
        return {"results": [_changed(change, user) for change in written.applied]}

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        top_k: int = MOST,
        limit: int | None = None,
        threshold: float = 0.0,
        **others: object,
    ) -> dict[str, Any]:
        """The items found, best first. score: BM25's, not a similarity; those at or under `threshold` are left out."""
        _refuse("search", others)
        user = _user({"user_id": user_id, **(filters or {})})
        found = self.manager.recall(query, top_k if limit is None else limit, user=user)
        return {"results": [{**_item(item, user), "score": item.score} for item in found if item.score > threshold]}

    def get_all(
        self,
        *,
        user_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        top_k: int = MOST,
        limit: int | None = None,
        **others: object,
    ) -> dict[str, Any]:
        _refuse("get_all", others)
        user = _user({"user_id": user_id, **(filters or {})})
        items = self.manager.items(user=user)[: top_k if limit is None else limit]
        return {"results": [_item(item, user) for item in items]}

    def get(self, memory_id: str) -> dict[str, Any] | None:
        user, item = _parts(memory_id)
        return next((_item(one, user) for one in self.manager.items(user=user) if one.id == item), None)

    def history(self, memory_id: str) -> list[dict[str, Any]]:
        user, item = _parts(memory_id)
        changes = [change for change in self.manager.history(item, user=user) if change.is_applied]
        before: str | None = None
        told = []
        for change in changes:
            told.append({**_changed(change, user), "old_memory": before, "new_memory": change.text})
            before = change.text
        return told

    def delete(self, memory_id: str) -> dict[str, str]:
        """Raises UserError, which is a ValueError as mem0's, where there is no such memory."""
        user, item = _parts(memory_id)
        if not self.manager.forget(item, user=user):
            raise UserError(f"Memory with id {memory_id} not found")
        return {"message": "Memory deleted successfully!"}

    def delete_all(self, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None) -> dict:
        user = _user({"user_id": user_id, "agent_id": agent_id, "run_id": run_id})
        for item in self.manager.items(user=user):
            self.manager.forget(item.id, user=user)
        return {"message": "Memories deleted successfully!"}


def _user(scope: Mapping[str, Any]) -> str:
    """The namespace of mem0's ids: the user's name alone where that is all there is."""
    unknown = sorted(set(scope) - set(_SCOPES))
    if unknown:
        raise UserError(f"filters: {unknown[0]} is not known; there are: {', '.join(_SCOPES)}")
    given = {name: scope[name] for name in _SCOPES if scope.get(name)}
    if not given:
        raise UserError(f"one of {', '.join(_SCOPES)} is needed")
    if not all(isinstance(value, str) for value in given.values()):
        raise UserError(f"{', '.join(_SCOPES)} must be text")
    return given["user_id"] if set(given) == {"user_id"} else json.dumps(given)


def _refuse(verb: str, others: Mapping[str, object]) -> None:
    given = sorted(name for name, value in others.items() if value not in (None, False))
    if given:
        raise UserError(f"{verb}({given[0]}=…) is mem0's, and not to be had here")


def _id(item: str, user: str) -> str:
    return f"{item}@{user}"


def _parts(memory_id: object) -> tuple[str, str]:
    """(user, item) of an id."""
    if not isinstance(memory_id, str) or "@" not in memory_id:
        raise UserError(f"Memory with id {str(memory_id)[:80]} not found")
    item, _, user = memory_id.partition("@")
    return user, item


def _changed(change: Change, user: str) -> dict[str, Any]:
    return {"id": _id(change.id, user), "memory": change.text, "event": _EVENTS[change.verb]}


def _item(item: Recalled, user: str) -> dict[str, Any]:
    return {"id": _id(item.id, user), "memory": item.text, "created_at": item.time, "updated_at": item.time}
