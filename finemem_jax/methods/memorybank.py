"""MemoryBank: dialogue and daily summaries are stored, and forgotten on Ebbinghaus' curve, R = exp(-t / S).

Per chunk: its exchanges (two lines each) become items as they stand; a call writes a summary of it, another what it
shows of the user's personality, an item each. When a chunk of another day begins, every item is kept with probability
exp(-t / S): t days since it was last said or recalled, S one more than how often it was recalled. The losers are
deleted. The published code has exp(-(t / 5) S), by which strong memories go first; this is the paper's formula. Not
here: the overall summary and personality, which are shown with every answer there.

A chunk without a date is a day by itself. What is drawn depends on the episode, the chunk and the item alone.
"""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Callable, Generator

from finemem_jax.env.environment import Ask, Asked, Environment, Game
from finemem_jax.methods import _instructed
from finemem_jax.types import WRITE, Chunk, Completion, Episode, Operation, Retrieved, Turn

_SUMMARY = """\
Sum up this talk in a few sentences: what happened, and what the user wants or feels. Reply with the summary."""
_PERSONALITY = """\
What does this talk show of the user's personality and mood, and how should an assistant answer them? A sentence or \
two. Reply with that alone."""


class _Bank:
    """What is known of the items beside their text, by id."""

    def __init__(self) -> None:
        self.recalled: dict[str, int] = {}
        self.day: dict[str, float] = {}  # it was last said or recalled on
        self.today = -math.inf

    def read(self, talk: _instructed.Talk, chunk: Chunk) -> Generator[Turn, Completion, None]:
        day = _day(chunk)
        forgotten = self._forgotten(talk, chunk, day) if day != self.today else []
        self.today = day
        summary = yield from talk.say(chunk, _instructed.chat(_SUMMARY, talk=chunk.text), WRITE)
        self._write(talk, [*forgotten, *map(_insert, _exchanges(chunk)), *_note("Summary", chunk, summary)])
        shown = yield from talk.say(chunk, _instructed.chat(_PERSONALITY, talk=chunk.text), WRITE)
        self._write(talk, list(_note("Personality", chunk, shown)))

    def _write(self, talk: _instructed.Talk, operations: list[Operation]) -> None:
        before = {item.id for item in talk.memory.items}
        talk.write(operations)
        for item in talk.memory.items:
            if item.id not in before:
                self.recalled[item.id], self.day[item.id] = 0, self.today

    def _forgotten(self, talk: _instructed.Talk, chunk: Chunk, day: float) -> list[Operation]:
        gone = []
        for item in talk.memory.items:
            drawn = random.Random(f"memorybank {talk.episode.id} {chunk.index} {item.id}").random()
            if drawn >= retention(day - self.day[item.id], 1 + self.recalled[item.id]):
                gone.append(Operation("memory_delete", {"id": item.id}))
        return gone

    def find(self, talk: _instructed.Talk) -> Callable[[str], tuple[Retrieved, ...]]:
        search = _instructed.searched(talk)

        def find(question: str) -> tuple[Retrieved, ...]:
            found = search(question)
            for item in found:
                self.recalled[item.id] += 1
                self.day[item.id] = self.today
            return found

        return find


def retention(days: float, strength: float) -> float:
    """Share of memories that are still there, in (0, 1]: exp(-t / S)."""
    return math.exp(-max(days, 0.0) / strength)


def play(
    env: Environment, episode: Episode, asked: Asked, ask: Ask, *, group: int = 0, sample: int = 0, write=None
) -> Game:
    """One rollout of an episode."""
    bank = _Bank()
    return _instructed.play(
        bank.read, env, episode, asked, ask, group=group, sample=sample, write=write, find=bank.find
    )


def _day(chunk: Chunk) -> float:
    """Days since the beginning of the calendar; the chunk's number where it has no date."""
    if not chunk.time:
        return float(chunk.index)
    return float(datetime.datetime.fromisoformat(chunk.time).toordinal())


def _exchanges(chunk: Chunk) -> list[str]:
    lines = [line for line in chunk.text.splitlines() if line.strip() and not line.startswith("[Dialogue ")]
    return ["\n".join(lines[i : i + 2]) for i in range(0, len(lines), 2)]


def _note(name: str, chunk: Chunk, text: str) -> list[Operation]:
    when = f" of {chunk.time[:10]}" if chunk.time else ""
    return [_insert(f"{name}{when}: {text}")] if text else []


def _insert(text: str) -> Operation:
    return Operation("memory_insert", {"content": text})
