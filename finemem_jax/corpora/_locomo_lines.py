"""LoCoMo's turns as lines that can be kept by themselves, and which questions an embedded answerer answers from them.

[8 May 2023] Caroline: I went to a support group yesterday.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from re import findall

from finemem_jax.config import AnswererConfig, resolve
from finemem_jax.corpora import _conversation, _sessions
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.corpora._sources import source_of
from finemem_jax.env import chunking, scoring
from finemem_jax.types import AnswerRequest, CountTokens, Question, Retrieved

CATEGORIES = {1: "multi_hop", 2: "temporal", 3: "open_domain", 4: "single_hop", 5: "abstention"}
RIGHT = 0.5  # score from which an answer counts as right


@dataclass(frozen=True, slots=True)
class Session:
    date: str
    turns: tuple[Mapping[str, object], ...]  # with speaker, dia_id and text


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is read of a published row."""

    sessions: tuple[Session, ...]  # in the order of their numbers
    # question, answers, category, what names its evidence, its place among all questions of the row
    asked: tuple[tuple[str, tuple[str, ...], int, str, int], ...]


def turn_text(turn: Mapping[str, object]) -> str:
    """What is said, and what a shared picture shows, for questions ask about it."""
    caption = turn.get("blip_caption")
    return f"{turn['text']} [shares a picture: {caption}]" if caption else str(turn["text"])


def named_turns(evidence: str) -> list[str]:
    """The dialogue ids in what a question gives as its evidence: "D8:6; D9:17"."""
    return findall(r"D\d++:\d++", evidence)


def chunked(
    conversation: Conversation, options: BuildOptions, count_tokens: CountTokens
) -> tuple[list[str], list[Question]]:
    """(contents of the chunks, questions with their lines) of a conversation."""
    budget = min(options.line_tokens or options.chunk_tokens, options.chunk_tokens)
    lines: list[str] = []
    holders: dict[str, list[int]] = {}  # dialogue id of a turn -> its lines
    for session in conversation.sessions:
        for turn in session.turns:
            day, speaker = _conversation.day(session.date), str(turn["speaker"])
            for line in _sessions.dated_lines(day, speaker, turn_text(turn), budget, count_tokens):
                holders.setdefault(str(turn["dia_id"]), []).append(len(lines))
                lines.append(line)
    groups = chunking.pack(lines, options.chunk_tokens, count_tokens, separator="\n")
    chunk_of = {line: chunk for chunk, group in enumerate(groups) for line in group}
    questions = []
    for text, answers, category, named, _ in conversation.asked:
        held = sorted({line for turn in named_turns(named) for line in holders.get(turn, ())})
        evidence = tuple(sorted({chunk_of[line] for line in held}))
        said = tuple(lines[line] for line in held)
        questions.append(Question(text, answers, kind=CATEGORIES.get(category, ""), evidence=evidence, lines=said))
    return ["\n".join(lines[i] for i in group) for group in groups], questions


def answerable(
    texts: Sequence[str], questions: Sequence[Question], options: BuildOptions
) -> tuple[list[str], list[Question]]:
    """The questions that the answerer gets right from their lines alone, each with the one line that is enough, or else
    with all; and the chunks that hold such lines, each behind `options.noise` that hold none."""
    cfg = AnswererConfig(name=options.answerable)
    answerer, metric = resolve("finemem_jax.answerers", cfg.name).create(cfg), source_of("locomo").metric
    asked = [(question, lines) for question in questions for lines in _selections(question)]
    replies = answerer.answer([_request(question, lines) for question, lines in asked])
    enough: dict[int, tuple[str, ...]] = {}
    for (question, lines), reply in zip(asked, replies, strict=True):
        if reply is not None and scoring.score(metric, reply, question.answers) >= RIGHT:
            enough.setdefault(id(question), lines)
    said = [frozenset(text.split("\n")) for text in texts]
    kept = []
    for question in questions:
        if id(question) in enough:
            lines = enough[id(question)]
            evidence = tuple(chunk for chunk in question.evidence if said[chunk] & set(lines))
            kept.append(replace(question, evidence=evidence, lines=lines))
    return _thinned(texts, kept, options.noise)


def _selections(question: Question) -> list[tuple[str, ...]]:
    """The lines one by one, then all together."""
    single: list[tuple[str, ...]] = [(line,) for line in question.lines]
    return [*single, question.lines] if len(single) > 1 else single


def _request(question: Question, lines: Sequence[str]) -> AnswerRequest:
    items = tuple(Retrieved(f"#{i}", i, (i,), line, 1.0) for i, line in enumerate(lines))
    return AnswerRequest(question.text, items)


def _thinned(texts: Sequence[str], questions: Sequence[Question], noise: int) -> tuple[list[str], list[Question]]:
    """The chunks with evidence, each behind up to `noise` others that stand right before it."""
    held = {chunk for question in questions for chunk in question.evidence}
    near = {before for chunk in held for before in range(max(chunk - noise, 0), chunk)}
    kept = sorted(held | near)
    place = {chunk: i for i, chunk in enumerate(kept)}
    moved = [replace(q, evidence=tuple(place[chunk] for chunk in q.evidence)) for q in questions]
    return [texts[chunk] for chunk in kept], moved
