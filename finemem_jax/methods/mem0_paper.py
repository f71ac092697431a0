"""Mem0 as its paper has it (arXiv 2504.19413): facts are extracted by one call, and merged into memory by another.

Per chunk: (1) the facts in it, with the last 10 lines of what was said before; (2) for these facts the 10 nearest
entries each are shown under small numbers, and every fact becomes ADD, UPDATE, DELETE or NONE. Not here: the running
summary of the conversation in call 1, and the graph. The package of that name works otherwise: mem0_package.py.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from finemem_jax.env.environment import Ask, Asked, Environment, Game
from finemem_jax.methods import _instructed
from finemem_jax.types import WRITE, Chunk, Completion, Episode, MemoryItem, Operation, Turn

_NEAREST, _BEFORE = 10, 10
_EXTRACT = """\
You take down what is worth remembering of a talk: facts about its people, their plans, likes and dates. One short \
statement each, with the name of whom it is about. Nothing worth keeping: an empty list.
Reply with JSON alone: {"facts": ["…", "…"]}"""
_MERGE = """\
You keep a memory of numbered entries. For the new facts decide what becomes of it: ADD a fact that is new, UPDATE an \
entry that it completes or replaces, DELETE an entry that it contradicts, NONE where it is known.
Reply with JSON alone: {"memory": [{"id": "0", "text": "…", "event": "ADD" | "UPDATE" | "DELETE" | "NONE"}]}. UPDATE \
and DELETE repeat the number of their entry as id, with the new text for UPDATE."""


def play(
    env: Environment, episode: Episode, asked: Asked, ask: Ask, *, group: int = 0, sample: int = 0, write=None
) -> Game:
    """One rollout of an episode."""
    return _instructed.play(_read, env, episode, asked, ask, group=group, sample=sample, write=write)


def _read(talk: _instructed.Talk, chunk: Chunk) -> Generator[Turn, Completion, None]:
    before = talk.episode.chunks[chunk.index - 1] if chunk.index else None
    parts = {"said_before": _instructed.last_lines(before, _BEFORE), "new": chunk.text}
    reply = yield from talk.say(chunk, _instructed.chat(_EXTRACT, **parts))
    found = _instructed.object_in(reply)
    if found is None:
        talk.write([_instructed.malformed(reply)])
        return
    facts = _instructed.texts(found.get("facts"))
    if not facts:
        talk.write([])
        return
    near = {item.id: item for fact in facts for item in _instructed.nearest(talk, fact, _NEAREST)}
    shown = [item for item in talk.memory.items if item.id in near]
    listed = "\n".join(f"- {fact}" for fact in facts)
    messages = _instructed.chat(_MERGE, memory=_instructed.numbered(shown), new_facts=listed)
    reply = yield from talk.say(chunk, messages, WRITE)
    decided = _instructed.object_in(reply)
    talk.write([_instructed.malformed(reply)] if decided is None else operations(decided.get("memory"), shown))


def operations(entries: object, shown: Sequence[MemoryItem]) -> list[Operation]:
    """What the entries of call 2 say. An UPDATE or DELETE of a number that was not shown names an unknown item."""
    known = {str(number): item.id for number, item in enumerate(shown)}
    written = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, Mapping):
            continue
        event, text = str(entry.get("event") or "").strip().upper(), str(entry.get("text") or "").strip()
        target = known.get(str(entry.get("id")).strip(), "unknown")
        if event == "ADD":
            written.append(Operation("memory_insert", {"content": text}))
        elif event == "UPDATE":
            written.append(Operation("memory_update", {"content": text, "id": target}))
        elif event == "DELETE":
            written.append(Operation("memory_delete", {"id": target}))
        elif event != "NONE":
            written.append(Operation("memory_insert", error=f"malformed: event {event[:20]!r}"))
    return written
