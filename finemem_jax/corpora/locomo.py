"""LoCoMo: long conversations between two friends, in dated sessions. The data is for non-commercial use only.

Input: `locomo*.json` as published, or its folder. A conversation is cut into runs of `--chunks` chunks (0 = whole
conversations); a run has the questions whose evidence lies in it. Adversarial questions (category 5), which have no
answer, are left out. Train and eval share no conversation.

With `--layout=bare` every turn is a line (several, beyond `--line-tokens`) that can be kept by itself:

    [8 May 2023] Caroline: I went to a support group yesterday.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from finemem_jax.corpora import _fields, _options, _questions, _reading, _sessions
from finemem_jax.corpora import _locomo_lines as _lines
from finemem_jax.corpora._locomo_lines import CATEGORIES, Conversation, Session, turn_text
from finemem_jax.env import chunking
from finemem_jax.types import CountTokens, Episode, Question

_ADVERSARIAL = 5
NOT_SAID = "The conversation does not say so."
_SESSION = re.compile(r"session_([0-9]{1,6})")


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    conversations = [
        checked(_fields.mapping(row, where := f"{path} row {number}", "the row"), where)
        for path in _reading.find(options.input, "locomo*.json")
        for number, row in enumerate(_reading.read_list(path))
    ]
    number = 0
    for conversation in options.of_split(conversations):
        if options.layout == "bare":
            texts, questions = _lines.chunked(conversation, options, count_tokens)
            if options.answerable:
                texts, questions = _lines.answerable(texts, questions, options)
        else:
            texts, questions = chunked(conversation, options.chunk_tokens, count_tokens)
        for run, own in _questions.windows(texts, questions, options.chunks):
            yield _questions.episode("locomo", number, run, own, options, is_dialogue=True)
            number += 1


def checked(row: Mapping[str, object], where: str, *, abstention: bool = False) -> Conversation:
    """A conversation as published, lists and objects decoded where they are JSON text; its adversarial questions, and
    those without an answer, left out. Raises UserError where a field is not so.

    abstention: the adversarial ones stay, and the right answer to them is that it is not said."""
    said = _fields.mapping(_fields.field(row, "conversation", where), where, "conversation")
    numbered = sorted((int(found.group(1)), name) for name in said if (found := _SESSION.fullmatch(name)))
    if not numbered:
        raise _fields.wrong(where, "conversation", "an object with session_1, session_2, …", list(said))
    sessions = []
    for _, name in numbered:
        turns = [
            _turn(turn, where, f"conversation.{name}[{i}]")
            for i, turn in enumerate(_fields.decoded(said[name], where, f"conversation.{name}", list))
        ]
        sessions.append(Session(_fields.text(said, f"{name}_date_time", where), tuple(turns)))
    if not any(session.turns for session in sessions):
        raise _fields.wrong(where, "conversation", "sessions with a turn", list(said))
    asked = []
    for i, entry in enumerate(_fields.listed(row, "qa", where)):
        name = f"qa[{i}]"
        entry = _fields.mapping(entry, where, name)
        category = _fields.field(entry, "category", f"{where} {name}")
        if type(category) is not int:
            raise _fields.wrong(where, f"{name}.category", "a number from 1 to 5", category)
        is_adversarial = category == _ADVERSARIAL
        if not abstention if is_adversarial else entry.get("answer") is None:
            continue
        question = _fields.text(entry, "question", f"{where} {name}")
        answers = (NOT_SAID,) if is_adversarial else _fields.answers(entry["answer"], where, f"{name}.answer")
        evidence = _fields.decoded(entry.get("evidence") or [], where, f"{name}.evidence", list)
        asked.append((question, answers, category, " ".join(map(str, evidence)), i))
    return Conversation(tuple(sessions), tuple(asked))


def _turn(turn: object, where: str, name: str) -> Mapping[str, object]:
    turn = _fields.mapping(turn, where, name)
    if not all(isinstance(turn.get(key), str) for key in ("speaker", "dia_id", "text")):
        raise _fields.wrong(where, name, "a turn with speaker, dia_id and text", turn)
    return turn


def chunked(
    conversation: Conversation, chunk_tokens: int, count_tokens: CountTokens
) -> tuple[list[str], list[Question]]:
    """(contents of the chunks, questions) of a conversation."""
    pieces: list[str] = []
    holders: dict[str, list[int]] = {}  # dialogue id of a turn -> pieces it is in
    for session in conversation.sessions:
        spoken = [(str(turn["speaker"]), turn_text(turn)) for turn in session.turns]
        for part in _sessions.split_session(session.date, spoken, chunk_tokens, count_tokens):
            for turn in part.turns:
                holders.setdefault(str(session.turns[turn]["dia_id"]), []).append(len(pieces))
            pieces.append(part.text)
    groups = chunking.pack(pieces, chunk_tokens, count_tokens)
    chunk_of = {piece: chunk for chunk, group in enumerate(groups) for piece in group}
    questions = []
    for text, answers, category, named, number in conversation.asked:
        turns = _lines.named_turns(named)
        evidence = sorted({chunk_of[piece] for turn in turns for piece in holders.get(turn, ())})
        kind = CATEGORIES.get(category, "")
        questions.append(Question(text, answers, kind=kind, evidence=tuple(evidence), id=f"#{number}"))
    return ["\n\n".join(pieces[i] for i in group) for group in groups], questions
