"""The embedded task: a person's days, generated from templates and the word lists of `_diary_words.py`.

A day (chunk) is a few lines of shorthand in random order:

    fact      Orlov Maya dentist
    change    now Petrov Maya dentist        (a fact of an earlier day, superseded)
    example   put on some jazz => music      (a labelled utterance)
    noise     the tram late again            (nothing will ever be asked about it)

and, where the config asks for a harder task (12 chunks and more, with a memory that cannot hold all that is read, are
where credit assignment matters):

    silent    Orlov Maya dentist             (no question about the day asks for it, a final one may)
    passing   Orlov Maya dentist             (a question about the day asks for it, no final one does)
    repeat    again Orlov Maya dentist       (a fact of an earlier day: two items that say the same)
    forget    no more Maya dentist           (a fact of an earlier day that is to be forgotten)

Final questions ask for facts that never changed, for the *present* value of changed ones ("changed"), and for
the label of an utterance of a kind that was labelled during the episode. A memory that only ever inserts holds
both the old and the new value, and BM25 ranks the shorter, older line first: changed facts need UPDATE. Where
something was to be forgotten, any answer is right but the forgotten one ("forgotten"), silence too.

Training and held-out episodes draw from disjoint pools: a (person, attribute) pair, a labelled utterance and a
line of chit-chat belong to one split for ever, by a hash of their text, so no utterance is shared. Episode i
of a split is a function of (seed, split, i) alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from finemem_jax.benchmarks._diary_words import ATTRIBUTES, CHATTER, INTENTS, NAMES
from finemem_jax.config import DataConfig, DiaryConfig, UserError
from finemem_jax.types import Chunk, Episode, Point, Question

HELD_OUT_SHARE = 5  # one utterance in this many is reserved for held-out episodes

_Key = tuple[str, str]  # person, attribute


@dataclass(frozen=True, slots=True)
class _Pools:
    """What one split may say."""

    pairs: tuple[tuple[str, str], ...]  # (person, attribute)
    utterances: dict[str, tuple[str, ...]]  # label -> utterances
    chatter: tuple[str, ...]


class _Episodes(Sequence[Episode]):
    """Episodes generated on access."""

    def __init__(self, cfg: DiaryConfig, split: str, seed: int, count: int):
        self._cfg, self._split, self._seed, self._count = cfg, split, seed, count
        self._pools = _pools(split)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self.cut(index, self._cfg.chunks)

    def cut(self, index: int, chunks: int) -> Episode:
        """The first `chunks` days of an episode, asked about as they stand then."""
        rng = random.Random(f"diary {self._seed} {self._split} {index}")
        days, name = min(chunks, self._cfg.chunks), f"diary-{self._split}-{self._seed}-{index}"
        telling = _Telling(self._cfg, self._pools, rng)
        told = tuple(telling.chunk(day) for day in range(days))
        name = name if days == self._cfg.chunks else f"{name}:{days}"
        return Episode(name, "diary", told, telling.final_questions())


def load(cfg: DataConfig, split: str, seed: int) -> Sequence[Episode]:
    """The episodes of a split, "train" or "eval", generated on access. Raises UserError if a day cannot be filled."""
    diary = cfg.diary
    facts, kinds = _new_facts(diary), "(facts + silent + passing)" if diary.silent or diary.passing else "facts"
    most = len(ATTRIBUTES) * diary.namesakes
    if facts > most:
        raise UserError(
            f"config.data.diary.{kinds} * chunks = {facts}: an episode has at most {most} distinct facts "
            f"({len(ATTRIBUTES)} * config.data.diary.namesakes)"
        )
    count = diary.train_episodes if split == "train" else diary.eval_episodes
    return _Episodes(diary, split, seed, min(count, cfg.limit) if cfg.limit else count)


def _new_facts(cfg: DiaryConfig) -> int:
    return (cfg.facts + cfg.silent + cfg.passing) * cfg.chunks


def sentences() -> Iterator[str]:
    """The words of this task: the text the tiny tokenizer is trained on."""
    for name in NAMES:
        for attribute, values in ATTRIBUTES.items():
            for value in values:
                yield f"{name}'s {attribute} is {value}"
                yield f"now {value} {name} {attribute}"
                yield f"{value} {name} {attribute}"
    for label, (patterns, words) in INTENTS.items():
        for pattern in patterns:
            for word in words:
                yield f"{pattern.format(word)} => {label}"
    yield from _chatter()


def _held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0


def _chatter() -> Iterator[str]:
    for article in CHATTER[0]:
        for thing in CHATTER[1]:
            for state in CHATTER[2]:
                for end in CHATTER[3]:
                    yield f"{article} {thing} {state} {end}"


def _pools(split: str) -> _Pools:
    def belongs(text: str) -> bool:
        return _held_out(text) == (split != "train")

    pairs = tuple((n, a) for n in NAMES for a in ATTRIBUTES if belongs(f"{n}'s {a}"))
    utterances = {
        label: tuple(u for p in patterns for w in words if belongs(u := p.format(w)))
        for label, (patterns, words) in INTENTS.items()
    }
    return _Pools(pairs, utterances, tuple(line for line in _chatter() if belongs(line)))


class _Telling:
    """An episode in the making: the days are told one after the other, then asked about."""

    def __init__(self, cfg: DiaryConfig, pools: _Pools, rng: random.Random):
        self.cfg, self.pools, self.rng = cfg, pools, rng
        self.people: dict[str, list[str]] = {}  # attribute -> those of whom it may be told
        for person, attribute in pools.pairs:
            self.people.setdefault(attribute, []).append(person)
        self.attributes: list[str] = []  # of the facts to come, the next one last
        while len(self.attributes) < min(_new_facts(cfg), cfg.namesakes * len(self.people)):
            wanted = min(_new_facts(cfg) - len(self.attributes), len(self.people))
            self.attributes = rng.sample(sorted(self.people), wanted) + self.attributes
        self.told: set[_Key] = set()  # all facts so far, forgotten or not
        self.present: dict[_Key, str] = {}  # value now
        self.said_on: dict[_Key, int] = {}  # the day it was last said
        self.changed: set[_Key] = set()
        self.silent: set[_Key] = set()
        self.passing: set[_Key] = set()
        self.forgotten: dict[_Key, tuple[str, int]] = {}  # what it was, and the day it was to be forgotten
        forgets = cfg.forgets if cfg.chunks > 1 else 0
        self.forget_on = rng.choices(range(1, cfg.chunks), k=forgets) if forgets else []
        # Few labels per episode, so that a stored example helps with later utterances of its label.
        self.labels = rng.sample(sorted(pools.utterances), min(len(pools.utterances), max(2, cfg.chunks)))
        self.labelled: dict[str, int] = {}  # label -> day of its first example
        self.used: set[str] = set()  # utterances

    def chunk(self, day: int) -> Chunk:
        """A day with the questions about it."""
        cfg, rng = self.cfg, self.rng
        lines: list[str] = []
        questions: list[Question] = []
        points: list[Point] = []

        def know(key: _Key, kind: str, replaces: tuple[str, ...] = ()) -> None:
            text, value = _fact(key, self.present[key]), self.present[key]
            points.append(Point(text, kind, replaces=replaces, value=value, about=key))

        def ask(key: _Key, kind: str) -> None:
            questions.append(_fact_question(key, self.present[key], kind, day))

        for key in self._forget(day):
            lines.append(f"no more {key[0]} {key[1]}")
            points.append(Point(lines[-1], "forgotten", replaces=(_fact(key, self.forgotten[key][0]),)))
        for key, old in self._change(day):
            lines.append(f"now {_fact(key, self.present[key])}")
            know(key, "changed", (_fact(key, old),))
            ask(key, "changed")
        for key in self._tell(cfg.facts, day):
            lines.append(_fact(key, self.present[key]))
            know(key, "fact")
            ask(key, "fact")
        for key in self._tell(cfg.silent, day):
            self.silent.add(key)
            lines.append(_fact(key, self.present[key]))
            know(key, "silent")
        for key in self._tell(cfg.passing, day):
            self.passing.add(key)
            lines.append(_fact(key, self.present[key]))
            know(key, "passing")
            ask(key, "passing")
        if cfg.repeats:
            earlier = [key for key, said in self.said_on.items() if said < day]
            lines += [f"again {_fact(key, self.present[key])}" for key in _some(rng, earlier, cfg.repeats)]
        for i in range(cfg.examples):
            label = self.labels[(day * cfg.examples + i) % len(self.labels)]
            example, probe = self._utterance(label), self._utterance(label)
            if example is None:
                continue
            lines.append(f"{example} => {label}")
            points.append(Point(lines[-1], "label", value=label, about=(example,)))
            self.labelled.setdefault(label, day)
            if probe is not None:
                questions.append(Question(probe, (label,), "exact_match", "label", (day,)))
        lines += rng.sample(self.pools.chatter, cfg.noise)
        rng.shuffle(lines)
        rng.shuffle(questions)
        return Chunk("\n".join(lines), day, tuple(questions[: cfg.chunk_questions]), points=tuple(points))

    def final_questions(self) -> tuple[Question, ...]:
        """About what holds after the days told so far."""
        cfg, rng = self.cfg, self.rng

        def about(keys: Iterable[_Key], kind: str, count: int) -> list[Question]:
            chosen = _some(rng, (key for key in keys if key in self.present), count)
            return [_fact_question(key, self.present[key], kind, self.said_on[key]) for key in chosen]

        final = about(self.changed, "changed", cfg.changed_questions)
        final += about(self.present.keys() - self.changed - self.silent - self.passing, "fact", cfg.fact_questions)
        for label in _some(rng, self.labelled, cfg.label_questions):
            if (probe := self._utterance(label)) is not None:
                final.append(Question(probe, (label,), "exact_match", "label", (self.labelled[label],)))
        if cfg.silent_questions:
            final += about(self.silent, "silent", cfg.silent_questions)
        if cfg.forgotten_questions:
            for key in _some(rng, self.forgotten, cfg.forgotten_questions):
                value, day = self.forgotten[key]
                final.append(Question(_asks(key), (value,), "not_said", "forgotten", (day,)))
        return tuple(final)

    def _tell(self, count: int, day: int) -> Iterator[_Key]:
        """New facts, fewer where all have been told."""
        for _ in range(count):
            if not self.attributes:
                return
            attribute = self.attributes.pop()
            people = [person for person in self.people[attribute] if (person, attribute) not in self.told]
            if people:
                key = (self.rng.choice(people), attribute)
                self.present[key], self.said_on[key] = self.rng.choice(ATTRIBUTES[attribute]), day
                self.told.add(key)
                yield key

    def _change(self, day: int) -> list[tuple[_Key, str]]:
        """Facts of earlier days that have another value from now on, with the one they had; each changes once."""
        lasting = self.changed | self.silent | self.passing
        changeable = [key for key, said in self.said_on.items() if said < day and key not in lasting]
        keys = self.rng.sample(changeable, min(self.cfg.changes, len(changeable)))
        before = [(key, self.present[key]) for key in keys]
        for key in keys:
            self.present[key] = self.rng.choice([v for v in ATTRIBUTES[key[1]] if v != self.present[key]])
            self.said_on[key] = day
            self.changed.add(key)
        return before

    def _forget(self, day: int) -> list[_Key]:
        """Facts of earlier days that are to be forgotten today."""
        if not (count := self.forget_on.count(day)):
            return []
        keys = _some(self.rng, (k for k, said in self.said_on.items() if said < day and k not in self.changed), count)
        for key in keys:
            self.forgotten[key] = self.present.pop(key), day
            del self.said_on[key]
        return keys

    def _utterance(self, label: str) -> str | None:
        free = [u for u in self.pools.utterances[label] if u not in self.used]
        if not free:
            return None
        self.used.add(choice := self.rng.choice(free))
        return choice


def _some(rng: random.Random, items, count: int) -> list:
    ordered = sorted(items)
    return rng.sample(ordered, min(count, len(ordered)))


def _fact(key: _Key, value: str) -> str:
    return f"{value} {key[0]} {key[1]}"


def _fact_question(key: _Key, value: str, kind: str, day: int) -> Question:
    return Question(_asks(key), (value,), "exact_match", kind, (day,))


def _asks(key: _Key) -> str:
    return f"what is {key[0]}'s {key[1]}?"
