"""Scripted writers of memory: the imperfect expert of the warm start, and the baselines that need no model.

A `Writer` is a function (episode, turn) -> operations. `collect.play_scripted` writes them down as a policy would
have, in the codec of the config, and `play` cannot tell them from one's; `expert` and `oracle` are played so. They look
at the episode's questions to know which lines matter, which no policy can. The others go through `replay`: no prompt
limits them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from finemem_jax.config import ExpertConfig
from finemem_jax.env.words import search_terms
from finemem_jax.types import Episode, MemoryItem, Operation, Question, Turn

Writer = Callable[[Episode, Turn], Sequence[Operation]]

SKIP = Operation("memory_skip")


def insert(text: str) -> Operation:
    return Operation("memory_insert", {"content": text})


def update(item: MemoryItem, text: str) -> Operation:
    return Operation("memory_update", {"content": text, "id": item.id})


def no_memory(episode: Episode, turn: Turn) -> list[Operation]:
    return [SKIP]


def store_all(episode: Episode, turn: Turn) -> list[Operation]:
    """Every line of the chunk as an item, a `Label:` line with the one it labels; evaluated without write limits."""
    items: list[str] = []
    for line in chunk_lines(episode, turn):
        if items and line.lower().startswith(("label:", "labels:")):
            items[-1] += f"\n{line}"
        else:
            items.append(line)
    return [insert(item) for item in items]


def chunk_as_item(episode: Episode, turn: Turn) -> list[Operation]:
    """The chunk as it stands (full_context, rag)."""
    return [insert(episode.chunks[turn.chunk].text)]


def recent_chunks(count: int) -> Writer:
    """The last `count` chunks as they stand."""

    def write(episode: Episode, turn: Turn) -> list[Operation]:
        gone = turn.memory.items[: max(len(turn.memory.items) - count + 1, 0)]
        return [*(Operation("memory_delete", {"id": item.id}) for item in gone), *chunk_as_item(episode, turn)]

    return write


def oracle(max_operations: int) -> Writer:
    """Every line that a question needs, changed facts as UPDATE, within the write budget."""
    return expert(ExpertConfig(keep_useful=1.0, keep_noise=0.0, update_changed=1.0, skip=0.0), max_operations, seed=0)


def expert(cfg: ExpertConfig, max_operations: int, seed: int) -> Writer:
    """The scripted expert: keeps each line with a probability, and mostly adds changed facts instead of updating.

    Deterministic in (seed, episode, step)."""

    def write(episode: Episode, turn: Turn) -> list[Operation]:
        rng = random.Random(f"expert {seed} {episode.id} {turn.chunk}")
        if rng.random() < cfg.skip:
            return [SKIP]
        questions = [q for chunk in episode.chunks for q in chunk.questions] + list(episode.questions)
        written = []
        for line in chunk_lines(episode, turn):
            if rng.random() >= (cfg.keep_useful if is_useful(line, questions) else cfg.keep_noise):
                continue
            old = superseded(line, turn.visible)
            if old is not None and rng.random() < cfg.update_changed:
                written.append(update(old, line))
            elif supersedes(line) and turn.visible and rng.random() < cfg.update_wrong:
                written.append(update(rng.choice(turn.visible), line))
            else:
                written.append(insert(line))
        return written[:max_operations] or [SKIP]

    return write


def chunk_lines(episode: Episode, turn: Turn) -> list[str]:
    return [line for line in episode.chunks[turn.chunk].text.splitlines() if line.strip()]


def is_useful(line: str, questions: Sequence[Question]) -> bool:
    """Whether the line is a labelled example or states a fact that is asked for."""
    return " => " in line or is_fact(line, questions)


def is_fact(line: str, questions: Sequence[Question]) -> bool:
    """Whether the line holds an answer beside a word of its question."""
    words = _words(line)
    return " => " not in line and any(
        _words(answer) <= words and words & _words(question.text) - _words(answer)
        for question in questions
        for answer in question.answers
    )


def superseded(line: str, items: Sequence[MemoryItem]) -> MemoryItem | None:
    """The item that states an older value of what `line` states: "now VALUE SUBJECT" against "OTHER SUBJECT"."""
    if not supersedes(line):
        return None
    return next((item for item in items if _subject(item.text) == _subject(line) and item.text != line), None)


def supersedes(line: str) -> bool:
    """Whether the line states a new value of something."""
    return line.startswith("now ")


def superseding(line: str, other: str) -> str:
    """What would supersede `line`: its subject with the value of the line `other`."""
    return f"now {other.partition(' ')[0]} {_subject(line)}"


def _subject(line: str) -> str:
    return line.removeprefix("now ").partition(" ")[2]


def _words(text: str) -> set[str]:
    return set(search_terms(text))
