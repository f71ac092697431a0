"""Dated sessions between speakers -> parts within a token budget, cut between turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from finemem_jax.config import UserError
from finemem_jax.env import chunking
from finemem_jax.types import CountTokens


class Part(NamedTuple):
    """A stretch of a session under its header, with the numbers of the turns in it."""

    text: str
    turns: tuple[int, ...]


def split_session(date: str, turns: Sequence[tuple[str, str]], budget: int, count_tokens: CountTokens) -> list[Part]:
    """Parts of a session of (speaker, text) turns. The date stands over every part, for it is lost otherwise."""
    header = f"[Dialogue at timestamp {date}]\n" if date else "[Dialogue]\n"
    starts, body = [], ""
    for speaker, text in turns:
        starts.append(len(body))
        body += f"<{speaker}>{' '.join(text.split())}\n"
    ends = [*starts[1:], len(body)]
    parts = []
    for span in chunking.split_text(body, max(1, budget - count_tokens(header)), count_tokens):
        inside = tuple(i for i in range(len(turns)) if starts[i] < span.end and span.start < ends[i])
        parts.append(Part(header + body[span.start : span.end], inside))
    return parts


def dated_lines(day: str, speaker: str, text: str, budget: int, count_tokens: CountTokens) -> list[str]:
    """A turn as lines that can be kept by themselves, each under its day and speaker: several where it is long."""
    header = f"[{day}] {speaker}: " if day else f"{speaker}: "
    text = " ".join(text.split())
    room = budget - count_tokens(header)
    if room < 1:
        raise UserError(f"--line-tokens, --chunk-tokens={budget}: no room beside {header!r}")
    return [header + text[span.start : span.end] for span in chunking.split_text(text, room, count_tokens)]
