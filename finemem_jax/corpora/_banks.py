"""A conversation's turns as entries that a memory can begin with: the bank that Memory-R1's manager is given.

An entry is a line that can be kept by itself. It holds what was said, or one of the facts that a model extracted of it:

    [8 May 2023] Caroline: I went to a support group yesterday.

There the bank is a model's work, in the form of such facts. They are read from a file, one line for a turn; a turn that
the file does not name keeps what was said, one with an empty list holds nothing to remember:

    {"conversation": "conv-26", "turn": "D1:3", "facts": ["Caroline went to a support group on 7 May 2023."]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finemem_jax.config import UserError
from finemem_jax.corpora import _conversation, _fields, _times
from finemem_jax.corpora import _locomo_lines as _lines

Facts = Mapping[tuple[str, str], tuple[str, ...]]
"""(conversation, turn) -> what was extracted of it."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A turn of a conversation."""

    id: str  # as questions name it in their evidence
    time: str  # ISO 8601; "" where unknown
    entries: tuple[str, ...]  # what memory would hold of it
    text: str  # what its reader is shown: the entries, or what was said where there are none


def spoken(conversation: _lines.Conversation, name: str, facts: Facts) -> list[Spoken]:
    """Every turn, in order."""
    found = []
    for session in conversation.sessions:
        for turn in session.turns:
            header = f"[{_conversation.day(session.date)}] {turn['speaker']}: "
            said = header + " ".join(_lines.turn_text(turn).split())
            entries = tuple(header + fact for fact in facts.get((name, str(turn["dia_id"])), ())) or (said,)
            entries = () if facts.get((name, str(turn["dia_id"]))) == () else entries
            time = _times.iso(session.date)
            found.append(Spoken(str(turn["dia_id"]), time, entries, "\n".join(entries) or said))
    return found


def read_facts(path: str) -> Facts:
    """The facts of a file; none where no file is named. Raises UserError, one line that names the line."""
    if not path:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config.data.turns.facts={path}: {error}") from error
    found = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"config.data.turns.facts={path} line {number}"
            try:
                row = _fields.mapping(_fields.loads(line), where, "the line")
            except ValueError as error:
                raise UserError(f"{where}: not JSON") from error
            said = _fields.listed(row, "facts", where)
            if not all(isinstance(fact, str) and fact.strip() for fact in said):
                raise _fields.wrong(where, "facts", "a list of texts", said)
            key = (_fields.text(row, "conversation", where), _fields.text(row, "turn", where))
            found[key] = tuple(" ".join(fact.split()) for fact in said)
    return found
