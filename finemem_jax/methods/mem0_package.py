"""Mem0 as its package has it (mem0ai 2): one call per chunk, which only adds.

The call sees the chunk, the last 10 lines of what was said before and the 10 nearest entries, and lists what is to be
added; a text that is there already is a duplicate. Nothing is updated or deleted. Answers come from the config's
retrieval, where the package weighs cosine, BM25 and entities (`retrieval.name=hybrid` is the nearest), and entities are
not linked. The package itself is baselines/mem0ai.py.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

from finemem_jax.env.environment import Ask, Asked, Environment, Game
from finemem_jax.methods import _instructed
from finemem_jax.types import WRITE, Chunk, Completion, Episode, Operation, Turn

_NEAREST, _BEFORE = 10, 10
_ADD = """\
You add to a memory what a talk brings: facts about its people, their plans, likes and dates. One self-contained \
statement each, with names and dates in it. Leave out what the memory says already; where something has changed, add \
how it is now. Nothing new: an empty list.
Reply with JSON alone: {"memory": [{"text": "…", "attributed_to": "…"}]}"""


def play(
    env: Environment, episode: Episode, asked: Asked, ask: Ask, *, group: int = 0, sample: int = 0, write=None
) -> Game:
    """One rollout of an episode."""
    return _instructed.play(_read, env, episode, asked, ask, group=group, sample=sample, write=write)


def _read(talk: _instructed.Talk, chunk: Chunk) -> Generator[Turn, Completion, None]:
    before = talk.episode.chunks[chunk.index - 1] if chunk.index else None
    near = _instructed.nearest(talk, chunk.text, _NEAREST)
    messages = _instructed.chat(
        _ADD,
        memory=_instructed.numbered(near),
        said_before=_instructed.last_lines(before, _BEFORE),
        new=chunk.text,
    )
    reply = yield from talk.say(chunk, messages, WRITE)
    found = _instructed.object_in(reply)
    if found is None:
        talk.write([_instructed.malformed(reply)])
        return
    entries = found.get("memory")
    said = [entry.get("text") if isinstance(entry, Mapping) else entry for entry in _list(entries)]
    talk.write([Operation("memory_insert", {"content": text}) for text in _instructed.texts(said)])


def _list(value: object) -> list:
    return value if isinstance(value, list) else []
