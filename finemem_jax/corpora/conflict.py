"""Conflict streams: facts that change. What was said last is true.

Input: a JSON file in SQuAD's format, or a folder of them. A fact is a question with its answer, stated on a line of its
own; a share of the facts (`--changed-share`) is stated again in a later chunk with another answer, that of a question
of the same kind (who, when, how many, …). Nothing marks the second statement as a change, as nothing does in
MemoryAgentBench's conflict resolution. Final questions ask for what holds at the end; questions about a chunk for what
it says. The kind of a question is "changed" or "fact". Train and eval share no article.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finemem_jax.corpora import _dialogue, _questions, squad
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.env.counting import Growing
from finemem_jax.types import Chunk, CountTokens, Episode, Point, Question

_CHUNKS = 10  # of an instance, with --chunks=0


@dataclass(frozen=True, slots=True)
class _Fact:
    question: str
    answer: str

    @property
    def kind(self) -> str:
        """Facts of one kind can swap their answers: the question word, and whether the answer is a number."""
        word = re.search(r"\b(who|whose|when|where|how \w++|what \w++|which \w++|why)\b", self.question.lower())
        return f"{word.group() if word else ''} {bool(re.search('[0-9]', self.answer))}"

    def line(self, answer: str) -> str:
        return f"{self.question.rstrip(' ?')}: {answer}"


@dataclass(frozen=True, slots=True)
class _Stated:
    """A fact of an instance, with the chunks that state it: (chunk, answer then), the second one if it changes."""

    fact: _Fact
    statements: tuple[tuple[int, str], ...]

    def question(self, statement: int) -> Question:
        chunk, answer = self.statements[statement]
        kind = "changed" if len(self.statements) > 1 else "fact"
        return Question(self.fact.question, (answer,), kind=kind, evidence=(chunk,))


class _Answers:
    """Distinct answers in the order they came in. One differs from another if it does so in more than its case."""

    def __init__(self) -> None:
        self._same: dict[str, list[int]] = defaultdict(list)  # places of the answers that are one but for case
        self._answers: list[str] = []

    def add(self, answer: str) -> None:
        if answer not in (self._answers[place] for place in self._same[answer.casefold()]):
            self._same[answer.casefold()].append(len(self._answers))
            self._answers.append(answer)

    def others(self, answer: str) -> int:
        """How many differ from an answer that is among them."""
        return len(self._answers) - len(self._same[answer.casefold()])

    def draw_other(self, answer: str, rng: random.Random) -> str:
        place = rng.randrange(self.others(answer))
        for taken in self._same[answer.casefold()]:  # ascending
            place += taken <= place
        return self._answers[place]


def episodes(options: BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    articles = squad.read_articles(options.input)
    facts: dict[str, _Fact] = {}
    for article in options.of_split(list(articles.values())):
        for paragraph in article:
            for text, asked in paragraph["qas"].items():
                answer = asked["answers"][0]["text"].strip() if asked["answers"] else ""
                if answer and _questions.is_short(answer, options):
                    facts.setdefault(text.casefold(), _Fact(" ".join(text.split()), " ".join(answer.split())))
    waiting = list(facts.values())
    options.rng(options.split, "order").shuffle(waiting)
    answers: dict[str, _Answers] = defaultdict(_Answers)  # by kind
    for fact in waiting:
        answers[fact.kind].add(fact.answer)
    number = 0
    while waiting:
        rng = options.rng(options.split, number)
        stated, lines, waiting = _fill(waiting, answers, options, count_tokens, rng)
        if not all(lines) or not any(len(fact.statements) > 1 for fact in stated):
            return  # what is left does not fill an instance
        yield _episode(number, stated, lines, options, rng)
        number += 1


def _fill(
    waiting: list[_Fact],
    answers: Mapping[str, _Answers],
    options: BuildOptions,
    count_tokens: CountTokens,
    rng: random.Random,
) -> tuple[list[_Stated], list[list[str]], list[_Fact]]:
    """(facts stated, lines of each chunk, facts left): facts in turn, until one finds no room in the chunks."""
    lines: list[list[str]] = [[] for _ in range(options.chunks or _CHUNKS)]
    sizes = [Growing(count_tokens, "\n") for _ in lines]
    stated: list[_Stated] = []
    for used, fact in enumerate(waiting):
        known, values = answers[fact.kind], [fact.answer]
        if known.others(fact.answer) and len(lines) > 1 and rng.random() < options.changed_share:
            values.append(known.draw_other(fact.answer, rng))
        written = [fact.line(value) for value in values]
        longest = max(written, key=len)
        free = [chunk for chunk, size in enumerate(sizes) if size.with_next(longest) <= options.chunk_tokens]
        if len(free) < len(values):
            return stated, lines, waiting[used:]
        chosen = sorted(rng.sample(free, len(values)))
        for chunk, line in zip(chosen, written, strict=True):
            lines[chunk].append(line)
            sizes[chunk].add(line)
        stated.append(_Stated(fact, tuple(zip(chosen, values, strict=True))))
    return stated, lines, []


def _episode(
    number: int, stated: Sequence[_Stated], lines: Sequence[list[str]], options: BuildOptions, rng: random.Random
) -> Episode:
    """Half of the facts are asked about at the end, the other half about the chunks that state them."""
    about: dict[int, list[Question]] = defaultdict(list)
    points: dict[int, list[Point]] = defaultdict(list)
    for fact in stated:
        before: tuple[str, ...] = ()
        for chunk, answer in fact.statements:
            text = fact.fact.line(answer)
            points[chunk].append(Point(text, "fact", replaces=before, value=answer, about=(fact.fact.question,)))
            before = (text,)
    final: list[Question] = []
    for position, fact in enumerate(rng.sample(list(stated), len(stated))):
        if position % 2 and options.chunk_questions:
            for statement, (chunk, _) in enumerate(fact.statements):
                about[chunk].append(fact.question(statement))
        else:
            final.append(fact.question(-1))
    chunks = []
    for index, held in enumerate(lines):
        text = "\n".join(held)
        text = _dialogue.wrap(text, index, rng) if options.layout == "dialogue" else text
        asked = tuple(about[index][: options.chunk_questions])
        chunks.append(Chunk(text, index, asked, points=tuple(points[index])))
    return Episode(f"conflict-{number}", "conflict", tuple(chunks), tuple(final[: options.questions]))
