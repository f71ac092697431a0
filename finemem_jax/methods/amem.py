"""A-MEM (agiresearch): every chunk is a note with keywords, a context and tags; neighbours are linked and rewritten.

Per chunk: (1) a call makes keywords, one sentence of context and tags; (2) with the 5 nearest notes in view, a second
call decides whether the new note is linked to them, has other tags, and whether their contexts and tags change. What a
note says is never changed, and nothing is deleted. A question finds the k best notes and, behind them, those that they
are linked to.

The published code names neighbours by their rank and then takes the rank for a place in the whole store, so that the
first notes ever stored are rewritten, and links that match no note are never followed. Here both mean the notes that
were shown. The authors' notes are single turns of a dialogue: cut chunks of that size for it. Their questions are first
turned into keywords by a call; here they are searched as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace

from finemem_jax.env.environment import Ask, Asked, Environment, Game
from finemem_jax.methods import _instructed
from finemem_jax.types import WRITE, Chunk, Completion, Episode, Operation, Retrieved, Turn

_NEAREST = 5
_ANALYSE = """\
You file a note. Give keywords (names, things, deeds; the most telling first), its context in one sentence, and broad \
tags for it.
Reply with JSON alone: {"keywords": ["…"], "context": "…", "tags": ["…"]}"""
_EVOLVE = """\
You keep a web of notes. A new note has come, with its nearest neighbours under their numbers. Decide whether the web \
should evolve: strengthen = link the new note to neighbours and give it other tags; update_neighbor = give neighbours \
another context or other tags, in the light of the new one.
Reply with JSON alone: {"should_evolve": true, "actions": ["strengthen", "update_neighbor"], "suggested_connections": \
[0], "tags_to_update": ["…"], "neighbors": [{"number": 0, "context": "…", "tags": ["…"]}]}"""


@dataclass(frozen=True, slots=True)
class _Note:
    content: str
    keywords: tuple[str, ...] = ()
    context: str = ""
    tags: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As an item of memory: what it says, then what was made of it."""
        made = (("context", self.context), ("keywords", ", ".join(self.keywords)), ("tags", ", ".join(self.tags)))
        return "\n".join([self.content, *(f"{name}: {text}" for name, text in made if text)])


class _Web:
    """The notes by the id of their item, and their links."""

    def __init__(self) -> None:
        self.notes: dict[str, _Note] = {}
        self.links: dict[str, list[str]] = {}

    def read(self, talk: _instructed.Talk, chunk: Chunk) -> Generator[Turn, Completion, None]:
        reply = yield from talk.say(chunk, _instructed.chat(_ANALYSE, note=chunk.text))
        made = _instructed.object_in(reply) or {}
        note = _Note(
            chunk.text,
            tuple(_instructed.texts(made.get("keywords"))),
            next(iter(_instructed.texts(made.get("context"))), ""),
            tuple(_instructed.texts(made.get("tags"))),
        )
        near = [item for item in _instructed.nearest(talk, note.content, _NEAREST) if item.id in self.notes]
        if not near:
            self._file(note, talk.write([_insert(note)]), ())
            return
        parts = {"new_note": note.text, "neighbours": _instructed.numbered(near)}
        reply = yield from talk.say(chunk, _instructed.chat(_EVOLVE, **parts), WRITE)
        decided = _instructed.object_in(reply)
        if decided is None:  # the note is kept as it is, and the reply on record as what it was
            self._file(note, talk.write([_insert(note), _instructed.malformed(reply)]), ())
            return
        ids = [item.id for item in near]
        actions = _instructed.texts(decided.get("actions")) if decided.get("should_evolve") is True else []
        linked: list[str] = []
        if "strengthen" in actions:
            linked = [ids[i] for i in _places(decided.get("suggested_connections"), len(ids))]
            note = replace(note, tags=tuple(_instructed.texts(decided.get("tags_to_update"))) or note.tags)
        changed: dict[str, _Note] = {}
        if "update_neighbor" in actions:
            for entry in _list(decided.get("neighbors")):
                places = _places([entry.get("number")], len(ids)) if isinstance(entry, Mapping) else []
                if places:
                    name = ids[places[0]]
                    context = next(iter(_instructed.texts(entry.get("context"))), self.notes[name].context)
                    tags = tuple(_instructed.texts(entry.get("tags"))) or self.notes[name].tags
                    changed[name] = replace(self.notes[name], context=context, tags=tags)
        changed = {name: new for name, new in changed.items() if new != self.notes[name]}
        updates = [Operation("memory_update", {"content": new.text, "id": name}) for name, new in changed.items()]
        written = talk.write([_insert(note), *updates])
        self.notes |= {name: new for name, new in changed.items() if name in written[1:]}
        self._file(note, written[:1], linked)

    def _file(self, note: _Note, written: tuple[str, ...], linked) -> None:
        """Under the id of its item, where it was written: a chunk that says what another said is a duplicate."""
        if written and written[0]:
            self.notes[written[0]] = note
            for other in linked:
                self.links.setdefault(written[0], []).append(other)
                self.links.setdefault(other, []).append(written[0])

    def find(self, talk: _instructed.Talk) -> Callable[[str], tuple[Retrieved, ...]]:
        search, items = _instructed.searched(talk), {item.id: item for item in talk.memory.items}
        most = talk.env.retrieval.max_tokens

        def find(question: str) -> tuple[Retrieved, ...]:
            found = list(search(question))
            tokens = sum(talk.env.count_tokens(item.text) for item in found)
            there = {item.id for item in found}
            for name in dict.fromkeys(other for item in tuple(found) for other in self.links.get(item.id, ())):
                item = items[name]
                tokens += talk.env.count_tokens(item.text)
                if name not in there and tokens <= most:
                    found.append(Retrieved(item.id, item.written_at, item.writers, item.text, 0.0, item.kind))
            return tuple(found)

        return find


def play(
    env: Environment, episode: Episode, asked: Asked, ask: Ask, *, group: int = 0, sample: int = 0, write=None
) -> Game:
    """One rollout of an episode."""
    web = _Web()
    return _instructed.play(web.read, env, episode, asked, ask, group=group, sample=sample, write=write, find=web.find)


def _insert(note: _Note) -> Operation:
    return Operation("memory_insert", {"content": note.text})


def _places(numbers: object, count: int) -> list[int]:
    """The numbers of a list that are of neighbours shown, as numbers or as text."""
    found = []
    for number in _list(numbers):
        text = str(number).strip()
        if text.isascii() and text.isdigit() and len(text) < 4 and int(text) < count:
            found.append(int(text))
    return list(dict.fromkeys(found))


def _list(value: object) -> list:
    return value if isinstance(value, list) else []
