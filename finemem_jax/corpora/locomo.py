"""LoCoMo: long conversations between two friends, in dated sessions. The data is for non-commercial use only.

Input: `locomo*.json` as published, or its folder. A conversation is cut into runs of `--chunks` chunks (0 = whole
conversations); a run has the questions whose evidence lies in it. Adversarial questions (category 5), which have no
answer, are left out. Train and eval share no conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from finemem_jax.config import UserError
from finemem_jax.corpora import _chunking, _options, _questions, _reading, _sessions
from finemem_jax.types import CountTokens, Episode, Question

_ADVERSARIAL = 5
_CATEGORIES = {1: "multi_hop", 2: "temporal", 3: "open_domain", 4: "single_hop"}


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    conversations = [(path, c) for path in _reading.find(options.input, "locomo*.json") for c in _read(path)]
    number = 0
    for path, conversation in options.of_split(conversations):
        try:
            texts, questions = chunked(conversation, options.chunk_tokens, count_tokens)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not in LoCoMo's format: {error}") from error
        for run, own in _questions.windows(texts, questions, options.chunks):
            yield _questions.episode("locomo", number, run, own, options, is_dialogue=True)
            number += 1


def _read(path: Path) -> list[dict]:
    data = _reading.read_json(path)
    if not isinstance(data, list):
        raise UserError(f"{path}: want a list of conversations")
    return data


def chunked(conversation: dict, chunk_tokens: int, count_tokens: CountTokens) -> tuple[list[str], list[Question]]:
    """(contents of the chunks, questions) of a conversation as published; its adversarial questions left out."""
    said = conversation["conversation"]
    numbers = sorted(int(key.split("_")[1]) for key in said if re.fullmatch(r"session_\d+", key))
    pieces: list[str] = []
    holders: dict[str, list[int]] = {}  # dialogue id of a turn -> pieces it is in
    for number in numbers:
        turns = said[f"session_{number}"]
        spoken = [(turn["speaker"], _turn_text(turn)) for turn in turns]
        date = said[f"session_{number}_date_time"]
        for part in _sessions.split_session(date, spoken, chunk_tokens, count_tokens):
            for turn in part.turns:
                holders.setdefault(turns[turn]["dia_id"], []).append(len(pieces))
            pieces.append(part.text)
    groups = _chunking.pack(pieces, chunk_tokens, count_tokens)
    chunk_of = {piece: chunk for chunk, group in enumerate(groups) for piece in group}
    questions = []
    for asked in conversation["qa"]:
        if asked["category"] == _ADVERSARIAL or asked.get("answer") is None:
            continue
        named = re.findall(r"D\d+:\d+", " ".join(asked["evidence"]))
        evidence = sorted({chunk_of[piece] for turn in named for piece in holders.get(turn, ())})
        kind = _CATEGORIES.get(asked["category"], "")
        questions.append(Question(asked["question"], (str(asked["answer"]),), kind=kind, evidence=tuple(evidence)))
    return ["\n\n".join(pieces[i] for i in group) for group in groups], questions


def _turn_text(turn: dict) -> str:
    """What is said, and what a shared picture shows, for questions ask about it."""
    caption = turn.get("blip_caption")
    return f"{turn['text']} [shares a picture: {caption}]" if caption else turn["text"]
