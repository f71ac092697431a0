"""The embedded task: a person's days, generated from the templates and word lists of this file.

A day (chunk) is a few lines of shorthand in random order:

    fact      Orlov Maya dentist
    change    now Petrov Maya dentist        (a fact of an earlier day, superseded)
    example   put on some jazz => music      (a labelled utterance)
    noise     the tram late again            (nothing will ever be asked about it)

Final questions ask for facts that never changed, for the *present* value of changed ones ("changed"), and for
the label of an utterance of a kind that was labelled during the episode. A memory that only ever inserts holds
both the old and the new value, and BM25 ranks the shorter, older line first: changed facts need UPDATE.

Training and held-out episodes draw from disjoint pools: a (person, attribute) pair, a labelled utterance and a
line of chit-chat belong to one split for ever, by a hash of their text, so no utterance is shared. Episode i
of a split is a function of (seed, split, i) alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finemem_jax.config import DataConfig, DiaryConfig, UserError
from finemem_jax.types import Chunk, Episode, Question

HELD_OUT_SHARE = 5  # one utterance in this many is reserved for held-out episodes

NAMES = """Maya Jonas Anna Felix Clara Ivan Nora Pablo Greta Omar Lucy Henrik Rosa Tariq Wendy Boris Alma Diego
Paula Victor Ida Marco Lena Hugo Sofia Arthur Mina Pavel Tess Ravi Olga Simon Vera Leo Edith Karl June Milo Zara
Emil""".split()

PEOPLE = """Orlov Petrov Malone Singh Becker Duarte Novak Okafor Lindgren Tanaka Moretti Haas Quinn Barros Keller
Yilmaz Stone Fischer Adler Costa Varga Nilsen Roth Sato Webb""".split()
PLACES = """Lisbon Oslo Quito Riga Turin Cairo Bergen Hanoi Porto Graz Lima Nantes Tbilisi Seville Utrecht Izmir
Dakar Leeds Osaka Split Ghent Bilbao Perth Malmo Zagreb""".split()
COLOURS = """red green blue yellow purple orange silver golden brown grey white black pink turquoise crimson
violet""".split()
FOODS = """soup lentils pancakes noodles dumplings risotto salad curry omelette stew pizza porridge tacos couscous
pickles goulash waffles lasagna""".split()
ANIMALS = """cat dog parrot rabbit hamster turtle goldfish lizard pony canary ferret hedgehog goat donkey""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
THINGS = """violin kettle lamp ladder guitar blanket compass umbrella camera teapot clock mirror vase hammer drum
backpack telescope""".split()
NUMBERS = """eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty
sixty seventy eighty ninety""".split()

# attribute -> the words its value is drawn from
ATTRIBUTES: dict[str, list[str]] = {
    **dict.fromkeys("dentist teacher landlord neighbour coach boss".split(), PEOPLE),
    **dict.fromkeys("hometown office holiday birthplace destination".split(), PLACES),
    **dict.fromkeys("bicycle door car scarf sofa tent".split(), COLOURS),
    **dict.fromkeys("breakfast dinner snack lunch".split(), FOODS),
    **dict.fromkeys("pet mascot".split(), ANIMALS),
    **dict.fromkeys("practice appointment laundry".split(), DAYS),
    **dict.fromkeys("present purchase hobby".split(), THINGS),
    **dict.fromkeys("locker platform bus".split(), NUMBERS),
}

# label -> (ways to say it, what it is said about)
INTENTS: dict[str, tuple[list[str], list[str]]] = {
    "music": (
        ["put on some {}", "play me {}", "let us hear {}", "turn up the {}"],
        "jazz blues techno opera folk swing reggae piano".split(),
    ),
    "alarm": (
        ["wake me at {}", "set the alarm for {}", "ring the alarm at {}", "get me up by {}"],
        "six seven eight nine five dawn noon midnight".split(),
    ),
    "weather": (
        ["will it rain in {}", "is it cold in {}", "what is the forecast for {}", "any snow in {}"],
        PLACES[:10],
    ),
    "shopping": (
        ["add {} to the list", "we need more {}", "buy {} on the way", "order {} again"],
        "milk flour apples rice butter candles soap onions".split(),
    ),
    "travel": (["book a train to {}", "find a flight to {}", "how far is {}", "reserve a seat to {}"], PLACES[10:20]),
    "banking": (["transfer money to {}", "pay the bill of {}", "what do I owe {}", "send a cheque to {}"], PEOPLE[:10]),
    "cooking": (
        ["how do I cook {}", "find a recipe for {}", "how long does {} simmer", "what goes with {}"],
        FOODS[:10],
    ),
    "calls": (["call {} back", "dial {} please", "leave {} a voicemail", "ring up {} tonight"], PEOPLE[10:20]),
}

CHATTER = [
    ["the", "a", "that"],
    ["tram", "kitchen", "sky", "garden", "street", "printer", "meeting", "radio", "evening", "staircase", "market",
     "window", "queue", "lift", "heating"],
    ["late", "noisy", "quiet", "crowded", "slow", "strange", "lovely", "dull", "warm", "empty", "damp", "cheerful"],
    ["again", "today", "as always", "for once", "all morning", "this time", "somehow", "after all"],
]  # fmt: skip


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
        rng = random.Random(f"diary {self._seed} {self._split} {index}")
        return _episode(self._cfg, self._pools, rng, f"diary-{self._split}-{self._seed}-{index}")


def load(cfg: DataConfig, split: str, seed: int) -> Sequence[Episode]:
    """The episodes of a split, "train" or "eval", generated on access. Raises UserError if a day cannot be filled."""
    diary = cfg.diary
    facts = diary.facts * diary.chunks
    if facts > len(ATTRIBUTES):
        raise UserError(
            f"config.data.diary.facts * chunks = {facts}: an episode has at most {len(ATTRIBUTES)} distinct facts"
        )
    count = diary.train_episodes if split == "train" else diary.eval_episodes
    return _Episodes(diary, split, seed, min(count, cfg.limit) if cfg.limit else count)


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


def _episode(cfg: DiaryConfig, pools: _Pools, rng: random.Random, name: str) -> Episode:
    by_attribute: dict[str, list[str]] = {}
    for person, attribute in pools.pairs:
        by_attribute.setdefault(attribute, []).append(person)
    attributes = rng.sample(sorted(by_attribute), min(cfg.facts * cfg.chunks, len(by_attribute)))
    present: dict[tuple[str, str], str] = {}  # (person, attribute) -> value now
    said_on: dict[tuple[str, str], int] = {}  # ... and the day it was last said
    changed: set[tuple[str, str]] = set()
    # Few labels per episode, so that a stored example helps with later utterances of its label.
    labels = rng.sample(sorted(pools.utterances), min(len(pools.utterances), max(2, cfg.chunks)))
    labelled: dict[str, int] = {}  # label -> day of its first example
    used: set[str] = set()

    def utterance(label: str) -> str | None:
        free = [u for u in pools.utterances[label] if u not in used]
        if not free:
            return None
        used.add(choice := rng.choice(free))
        return choice

    chunks = []
    for day in range(cfg.chunks):
        lines, questions = [], []
        changeable = [key for key, said in said_on.items() if said < day and key not in changed]
        for key in rng.sample(changeable, min(cfg.changes, len(changeable))):
            present[key] = rng.choice([v for v in ATTRIBUTES[key[1]] if v != present[key]])
            said_on[key] = day
            changed.add(key)
            lines.append(f"now {_fact(key, present[key])}")
            questions.append(_fact_question(key, present[key], "changed", day))
        for _ in range(cfg.facts):
            if not attributes:
                break
            attribute = attributes.pop()
            key = (rng.choice(by_attribute[attribute]), attribute)
            present[key], said_on[key] = rng.choice(ATTRIBUTES[attribute]), day
            lines.append(_fact(key, present[key]))
            questions.append(_fact_question(key, present[key], "fact", day))
        for i in range(cfg.examples):
            label = labels[(day * cfg.examples + i) % len(labels)]
            example, probe = utterance(label), utterance(label)
            if example is None:
                continue
            lines.append(f"{example} => {label}")
            labelled.setdefault(label, day)
            if probe is not None:
                questions.append(Question(probe, (label,), "exact_match", "label", (day,)))
        lines += rng.sample(pools.chatter, cfg.noise)
        rng.shuffle(lines)
        rng.shuffle(questions)
        chunks.append(Chunk("\n".join(lines), day, tuple(questions[: cfg.chunk_questions])))

    stable = [key for key in present if key not in changed]
    final = [_fact_question(k, present[k], "changed", said_on[k]) for k in _some(rng, changed, cfg.changed_questions)]
    final += [_fact_question(k, present[k], "fact", said_on[k]) for k in _some(rng, stable, cfg.fact_questions)]
    for label in _some(rng, labelled, cfg.label_questions):
        if (probe := utterance(label)) is not None:
            final.append(Question(probe, (label,), "exact_match", "label", (labelled[label],)))
    return Episode(name, "diary", tuple(chunks), tuple(final))


def _some(rng: random.Random, items, count: int) -> list:
    ordered = sorted(items)
    return rng.sample(ordered, min(count, len(ordered)))


def _fact(key: tuple[str, str], value: str) -> str:
    return f"{value} {key[0]} {key[1]}"


def _fact_question(key: tuple[str, str], value: str, kind: str, day: int) -> Question:
    return Question(f"what is {key[0]}'s {key[1]}?", (value,), "exact_match", kind, (day,))
