"""LoCoMo turn by turn, as Memory-R1 trains on it: a chunk is one turn of a conversation, as a line or as its facts.

`config.data.turns` says what an episode is:

    read=1, given=50    one turn, from a memory that begins with the entries of the 50 turns before (its manager)
    read=0, given=-1    no turn: one question, from a memory of the whole conversation (its answer agent)
    read=40, given=0    40 turns, from an empty memory: all that the memory holds is the policy's own

A question belongs to the episode that reads the last turn of its evidence, and is asked about that chunk and at the
end. It is left out where a turn of its evidence is neither read nor given: nobody could answer it. An episode has a
question at least. Answers are compared word for word (`exact_match`). The data is for non-commercial use only.

Whole conversations are held out: of `config.data.path` alone every tenth, or the last. The published splits are
of 1, 1 and 8 of the 10 conversations: name them with `config.data.path` and `eval_path`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, types
from finemem_jax.benchmarks import _splits
from finemem_jax.corpora import _banks
from finemem_jax.corpora import _locomo_lines as _lines
from finemem_jax.corpora import locomo as corpus

SOURCE, METRIC = "locomo_turns", "exact_match"


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """The episodes of a split, see `_splits.load`; `config.data.limit` counts these."""
    if not cfg.turns.read and not cfg.turns.given:
        raise config.UserError(
            "config.data.turns.read=0 and config.data.turns.given=0: nothing is read and nothing is given, so that "
            "nothing can be answered; set one of them"
        )
    facts = _banks.read_facts(cfg.turns.facts)
    entries: dict[str, list[tuple[str, ...]]] = {}  # of every conversation, by turn

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        conversation = corpus.checked(row, place.where)
        name = str(row.get("sample_id") or place.number)
        turns = _banks.spoken(conversation, name, facts)
        episode = _whole(conversation, turns, name)
        entries[episode.id] = [turn.entries for turn in turns]
        yield episode

    # In the order of the files whatever the seed, so that `limit` keeps the same ones.
    conversations = _splits.load(replace(cfg, limit=0), split, 0, lambda file: read_row)
    place = {name: number for number, name in enumerate(entries)}
    conversations = sorted(conversations, key=lambda whole: place[whole.id])
    cut = _one_question if not cfg.turns.read else _windows
    episodes = [episode for whole in conversations for episode in cut(whole, entries[whole.id], cfg.turns)]
    if not episodes:
        raise config.UserError(
            f"config.data.turns.read={cfg.turns.read}, config.data.turns.given={cfg.turns.given}: no question of the "
            f"{split} split has all turns of its evidence among them"
        )
    episodes = episodes[: cfg.limit or None]
    if split == "train":
        random.Random(seed).shuffle(episodes)
    return tuple(episodes)


def _whole(conversation: _lines.Conversation, turns: Sequence[_banks.Spoken], name: str) -> types.Episode:
    """The conversation as one episode; evidence are turns, none where the data names none."""
    place = {turn.id: number for number, turn in enumerate(turns)}
    questions = []
    for text, answers, category, named, number in conversation.asked:
        evidence = sorted({place[turn] for turn in _lines.named_turns(named) if turn in place})
        kind = _lines.CATEGORIES.get(category, "")
        asked = types.Question(text, answers, METRIC, kind, tuple(evidence), id=f"{name}#{number}")
        questions.append(asked)
    chunks = tuple(types.Chunk(turn.text, number, time=turn.time) for number, turn in enumerate(turns))
    return types.Episode(f"{SOURCE}-{name}", SOURCE, chunks, tuple(questions))


def _windows(
    whole: types.Episode, entries: Sequence[tuple[str, ...]], cfg: config.TurnsConfig
) -> Iterator[types.Episode]:
    """Every run of `cfg.read` turns that answers a question, after the entries of those before."""
    for start in range(0, len(whole.chunks), cfg.read):
        end = min(start + cfg.read, len(whole.chunks))
        first = 0 if cfg.given < 0 else max(start - cfg.given, 0)
        asked = [
            replace(question, evidence=tuple(turn - start for turn in question.evidence if turn >= start))
            for question in whole.questions
            if question.evidence and first <= min(question.evidence) and start <= max(question.evidence) < end
        ]
        chunks = tuple(
            replace(chunk, index=place, questions=tuple(q for q in asked if max(q.evidence) == place))
            for place, chunk in enumerate(whole.chunks[start:end])
        )
        if asked:
            given = _given(entries[first:start])
            yield replace(whole, id=f"{whole.id}:{start}-{end}", chunks=chunks, questions=tuple(asked), start=given)


def _one_question(
    whole: types.Episode, entries: Sequence[tuple[str, ...]], cfg: config.TurnsConfig
) -> Iterator[types.Episode]:
    """Every question by itself, from the entries of all turns, or of the last up to its evidence."""
    for number, question in enumerate(whole.questions):
        given = entries
        if cfg.given >= 0:
            end = max(question.evidence, default=-1) + 1
            if not question.evidence or min(question.evidence) < end - cfg.given:
                continue
            given = entries[max(end - cfg.given, 0) : end]
        asked = (replace(question, evidence=()),)
        yield replace(whole, id=f"{whole.id}:q{number}", chunks=(), questions=asked, start=_given(given))


def _given(entries: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(entry for of_turn in entries for entry in of_turn)
