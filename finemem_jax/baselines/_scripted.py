"""What scripts write: the imperfect expert of the warm start, and the operations that scripts are made of.

The expert looks at the episode's questions to know which lines matter, which no policy can.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from finemem_jax.baselines._contestant import Writer
from finemem_jax.config import ExpertConfig
from finemem_jax.env.words import search_terms
from finemem_jax.types import Episode, MemoryItem, Operation, Question, Turn

SKIP = Operation("memory_skip")


def insert(text: str) -> Operation:
    return Operation("memory_insert", {"content": text})


def update(item: MemoryItem, text: str) -> Operation:
    return Operation("memory_update", {"content": text, "id": item.id})


def chunk_as_item(episode: Episode, turn: Turn) -> list[Operation]:
    """The chunk as it stands."""
    return [insert(chunk_text(episode, turn))]


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
    return [line for line in chunk_text(episode, turn).splitlines() if line.strip()]


def chunk_text(episode: Episode, turn: Turn) -> str:
    """The chunk that a writing turn is about."""
    assert turn.chunk is not None
    return episode.chunks[turn.chunk].text


def is_useful(line: str, questions: Sequence[Question]) -> bool:
    """Whether the line is a labelled example or states a fact that is asked for."""
    return " => " in line or is_fact(line, questions)


def is_fact(line: str, questions: Sequence[Question]) -> bool:
    """Whether the line is known to hold an answer; where no line is, whether it has an answer beside a word of its
    question."""
    words = _words(line)
    return " => " not in line and any(
        line in question.lines
        if question.lines
        else any(_words(a) <= words and words & _words(question.text) - _words(a) for a in question.answers)
        for question in questions
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
