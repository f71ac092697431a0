"""Turns of a conversation, in whatever words their source gives them, and how a session of them is written.

dialogue    [Dialogue at timestamp 2023-05-08 13:56]
            <Caroline>I went to a support group yesterday.
            <Mel>How was it?

lines       [8 May 2023] Caroline: I went to a support group yesterday.
            [8 May 2023] Mel: How was it?
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finemem_jax.config import UserError
from finemem_jax.corpora import _sessions
from finemem_jax.env import chunking
from finemem_jax.types import CountTokens

_SPEAKERS = ("name", "speaker", "role", "from", "author", "user")
_TEXTS = ("content", "value", "text", "message")
_TIMES = ("time", "timestamp", "created_at", "date")
# ShareGPT's and LangChain's words for who speaks
_ROLES = {"human": "user", "gpt": "assistant", "ai": "assistant", "chatbot": "assistant", "bot": "assistant"}
_UNSAID = ("system", "developer", "tool", "function", "ipython")  # not part of what people say to each other


class Said(NamedTuple):
    """One turn."""

    speaker: str
    text: str
    time: str = ""


def read_turns(messages: object, where: str) -> list[Said]:
    """The turns of a list of messages (OpenAI, ShareGPT, LangChain), without instructions, calls of tools and what is
    empty. Raises UserError, naming the message, where one is none."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise UserError(f"{where}: must be a list of messages, got {_short(messages)}")
    found = [turn for number, message in enumerate(messages) if (turn := _read_turn(message, f"{where}[{number}]"))]
    return [turn for turn in found if turn.text.strip()]


def _read_turn(message: object, where: str) -> Said | None:
    if isinstance(message, Said):
        return message
    if isinstance(message, Mapping) and isinstance(message.get("data"), Mapping):  # LangChain: type and data
        message = {"role": message.get("type"), **message["data"]}
    if not isinstance(message, Mapping):
        raise UserError(f"{where}: must be a message with a role and a content, got {_short(message)}")
    role = message.get("role", message.get("from"))
    if isinstance(role, str) and role.lower() in _UNSAID:
        return None
    speaker = next((message[key] for key in _SPEAKERS if isinstance(message.get(key), str) and message[key]), "")
    if not speaker:
        raise UserError(
            f"{where}: says nobody who speaks ({' or '.join(_SPEAKERS[:4])}), it has {_short(list(message))}"
        )
    given = next((message[key] for key in _TEXTS if message.get(key) is not None), None)
    if given is None:
        if any(key in message for key in ("tool_calls", "function_call", *_TEXTS)):
            return None
        raise UserError(f"{where}: has no {' or '.join(_TEXTS)}, it has {_short(list(message))}")
    time = next((message[key] for key in _TIMES if message.get(key)), "")
    return Said(_ROLES.get(speaker.lower(), speaker), _text(given, where), time_text(time, where))


def _text(content: object, where: str) -> str:
    """A text, or the texts among the parts of a content."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping | str) for part in content):
        parts = [part if isinstance(part, str) else part.get("text") for part in content]
        return "\n".join(part for part in parts if isinstance(part, str))
    raise UserError(f"{where}: the content must be text, or a list of parts, got {_short(content)}")


def time_text(given: object, where: str) -> str:
    """A time as text: what is given; seconds since 1970 as a date."""
    if given is None or given == "":
        return ""
    if isinstance(given, bool) or not isinstance(given, int | float | str | datetime.date):
        raise UserError(f"{where}: the time must be text or a number of seconds, got {_short(given)}")
    if isinstance(given, datetime.date):
        return given.isoformat()
    if isinstance(given, int | float):
        try:
            return datetime.datetime.fromtimestamp(given, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        except (OverflowError, OSError, ValueError):
            raise UserError(f"{where}: {given} is no time in seconds since 1970") from None
    return " ".join(given.split())


def written(turns: Sequence[Said], time: str, layout: str, budget: int, count_tokens: CountTokens) -> list[str]:
    """The chunks of one session, cut between turns where that fits. time: of the session; a turn without one has it."""
    time = time or next((turn.time for turn in turns if turn.time), "")
    if layout == "lines":
        lines = [
            line
            for turn in turns
            for line in _sessions.dated_lines(day(turn.time or time), turn.speaker, turn.text, budget, count_tokens)
        ]
        groups = chunking.pack(lines, budget, count_tokens, separator="\n")
        return ["\n".join(lines[i] for i in group) for group in groups]
    spoken = [(_capital(turn.speaker), turn.text) for turn in turns]
    return [part.text for part in _sessions.split_session(minute(time), spoken, budget, count_tokens)]


def _capital(speaker: str) -> str:
    """User and Assistant, as the published dialogues have them; names as they are."""
    return speaker.capitalize() if speaker in ("user", "assistant") else " ".join(speaker.split())


def day(time: str) -> str:
    """8 May 2023 of an ISO time and of LoCoMo's "1:56 pm on 8 May, 2023"; a time of another form as it stands."""
    found = iso(time)
    if found is not None:
        return f"{found.day} {found:%B %Y}"
    return time.rpartition(" on ")[2].replace(",", "")


def minute(time: str) -> str:
    """2023-05-08 13:56 of an ISO time; one of another form as it stands."""
    found = iso(time)
    return time if found is None else f"{found:%Y-%m-%d %H:%M}"


def iso(time: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(time)
    except ValueError:
        return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
