"""Dialogues in dated sessions -> chunks that never span two sessions, for benchmarks that ask after a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finemem_jax import types
from finemem_jax.corpora import _sessions, _times


@dataclass(frozen=True, slots=True)
class Session:
    """What was said, and what is known of it. points: as in `Chunk`."""

    name: str  # unique in its episode
    date: str  # as published
    turns: tuple[tuple[str, str], ...]  # (speaker, text)
    points: tuple[types.Point, ...] | None = None


def chunked(
    sessions: Sequence[Session], chunk_tokens: int, count_tokens: types.CountTokens
) -> tuple[tuple[types.Chunk, ...], dict[str, tuple[int, ...]]]:
    """The chunks, and the indices of those of each session, by its name. A session without a word has none."""
    chunks: list[types.Chunk] = []
    places: dict[str, tuple[int, ...]] = {}
    for session in sessions:
        parts = (
            _sessions.split_session(session.date, session.turns, chunk_tokens, count_tokens) if session.turns else []
        )
        for number, part in enumerate(parts, 1):
            points = session.points if number == len(parts) else None
            name = session.name if len(parts) > 1 else ""
            time = _times.iso(session.date)
            chunks.append(types.Chunk(part.text, len(chunks), (), time, points, name))
        places[session.name] = tuple(range(len(chunks) - len(parts), len(chunks)))
    return tuple(chunks), places
