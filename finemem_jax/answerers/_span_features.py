"""What a span of a sentence is worth as the answer to a question: a sum of weights of its features.

Every feature hangs on the span's first word, its last, one word or sign in it, its length, or its sentence alone. So
the score of a span is first[i] + last[j] + the sum of inside[i..j] + length[j - i] + what its sentence adds, and all
spans of a sentence cost its words times the longest span.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

LONGEST = 12  # words of a span
MOST_WORDS = 64  # of a sentence that are looked at

_TOKEN = re.compile(r"[^\W_]++(?:['’.,:&+@/-][^\W_]++)*+|[^\w\s]")
_SUFFIXES = ("ing", "ed", "es", "s", "ly", "'s", "’s")

_CLASSES = {
    word: name
    for name, words in {
        "art": "a an the",
        "prep": "of in on at by with from about into through during after before over under between against as near "
        "around off out up down than like without within since across along behind",
        "for": "for",
        "to": "to",
        "be": "is are was were be been being am 's 're 'm it's i'm that's there's they're we're you're he's she's",
        "have": "have has had having i've we've they've got get gets getting",
        "do": "do does did doing don't didn't doesn't can could will would should may might must can't won't i'll "
        "we'll it'll i'd we'd let's",
        "me": "i we me us you myself ourselves",
        "it": "it he she they them him her himself herself themselves this that these those there one",
        "my": "my our your his its their",
        "and": "and or &",
        "but": "but so if then though although while when where which who what how why whose",
        "because": "because cause 'cause since",
        "adv": "really so very just also too even still already always never again now here not well super totally "
        "definitely actually maybe quite pretty much more most lot lots kind sort",
    }.items()
    for word in words.split()
}
_ASKS = frozenset(
    "what which who whom whose when where why how did does do is are was were will would can could has have had "
    "many much long often old kind type kinds types".split()
)
_WH = frozenset(("who", "whom", "whose", "where", "why", "how", "what", "which"))
_NUMBERS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve once twice thrice dozen hundred thousand".split()
)


class Asked(NamedTuple):
    """A question as the features see it."""

    type: str  # who | where | why | how | number | kind | what
    is_when: bool  # a day, month or year is asked for
    stems: frozenset[str]  # of its words that say what it is about
    names: frozenset[str]  # lower-cased words of it that are capitalised, behind the first


class Sentence(NamedTuple):
    """A sentence of an item."""

    text: str
    words: tuple[str, ...]
    starts: tuple[int, ...]  # of the words, in `text`
    ends: tuple[int, ...]
    classes: tuple[str, ...]
    stems: tuple[str, ...]
    breaks: tuple[str, ...]  # [words + 1] the sign before each word and behind the last, "" where there is none


def read_question(text: str) -> Asked:
    words = [found for found in _TOKEN.findall(text) if found[0].isalnum()]
    lower = [word.lower() for word in words]
    asks = next(
        (word for word in lower if word in ("who", "whom", "whose", "where", "why", "how", "what", "which")), ""
    )
    after = lower[lower.index(asks) + 1] if asks and lower.index(asks) + 1 < len(lower) else ""
    kind = {"whom": "who", "whose": "who", "which": "what", "": "what"}.get(asks, asks)
    if asks == "how" and after in ("many", "much", "long", "often", "old", "far"):
        kind = "number"
    elif kind == "what" and after in ("kind", "type", "kinds", "types"):
        kind = "kind"
    stems = frozenset(stem(word) for word in lower if word not in _ASKS and word not in _CLASSES)
    names = frozenset(word.lower() for word in words[1:] if word[:1].isupper())
    is_when = lower[:1] == ["when"] or lower[:2] in (["which", "year"], ["what", "year"], ["which", "month"])
    return Asked(kind, is_when, stems, names)


def read_sentence(text: str) -> Sentence:
    words: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    breaks = ["^"]
    for found in _TOKEN.finditer(text):
        token = found.group()
        if not token[0].isalnum():
            breaks[-1] = {"“": '"', "”": '"', "–": "-", "—": "-", "!": ".", "?": ".", "…": "."}.get(token, token)
        elif len(words) < MOST_WORDS:
            words.append(token)
            starts.append(found.start())
            ends.append(found.end())
            breaks.append("")
    breaks[-1] = breaks[-1] or "$"
    classes = tuple(_class(word, i) for i, word in enumerate(words))
    signs = tuple(sign if sign in ("", "^", "$", ".", ",", '"', "-", ":", "(", "[") else "*" for sign in breaks)
    return Sentence(text, tuple(words), tuple(starts), tuple(ends), classes, tuple(map(stem, words)), signs)


def stem(word: str) -> str:
    """A word without its ending, crudely: "painted", "painting", "paints" and "paint" are one."""
    word = word.lower()
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return word.removesuffix("e") if len(word) > 3 else word


def _class(word: str, place: int) -> str:
    lower = word.lower()
    if lower in _CLASSES:
        return _CLASSES[lower]
    if word[0].isdigit() or lower in _NUMBERS:
        return "num"
    if word[0].isupper():
        return "cap" if place else "first"
    for suffix in ("ing", "ed", "ly", "s"):
        if lower.endswith(suffix) and len(lower) > len(suffix) + 2:
            return suffix
    return "word"


# --------------------------------------------------------------------------------------------------------------
# Features, by name
# --------------------------------------------------------------------------------------------------------------


def first_features(sentence: Sentence, i: int, asked: Asked) -> Iterator[str]:
    """Of a span that begins at word i."""
    own, sign = sentence.classes[i], sentence.breaks[i]
    before = sign if sign else sentence.classes[i - 1]
    yield f"first {own}"
    yield f"before {before}"
    yield f"{asked.type} first {own}"
    yield f"{asked.type} before {before}"
    if i and not sign and sentence.stems[i - 1] in asked.stems:
        yield "before asked"
    near = next((d for d in range(1, 7) if i - d >= 0 and sentence.stems[i - d] in asked.stems), 0)
    yield f"asked before {near}"


def last_features(sentence: Sentence, j: int, asked: Asked) -> Iterator[str]:
    """Of a span that ends with word j."""
    own, sign = sentence.classes[j], sentence.breaks[j + 1]
    after = sign if sign else sentence.classes[j + 1]
    yield f"last {own}"
    yield f"after {after}"
    yield f"{asked.type} last {own}"
    yield f"{asked.type} after {after}"
    near = next((d for d in range(1, 5) if j + d < len(sentence.words) and sentence.stems[j + d] in asked.stems), 0)
    yield f"asked after {near}"


def inside_features(sentence: Sentence, k: int, asked: Asked) -> Iterator[str]:
    """Of a span that holds word k."""
    if sentence.stems[k] in asked.stems:
        yield "holds asked"
        yield f"{asked.type} holds asked"
    yield f"holds {sentence.classes[k]}"
    if sentence.classes[k] in ("num", "cap"):
        yield f"{asked.type} holds {sentence.classes[k]}"


def break_features(sentence: Sentence, k: int) -> Iterator[str]:
    """Of a span that holds the words k - 1 and k."""
    if sentence.breaks[k]:
        yield f"across {sentence.breaks[k]}"


def length_features(words: int, asked: Asked) -> Iterator[str]:
    yield f"words {words}"
    yield f"{asked.type} words {min((words + 1) // 2, 4)}"


def sentence_features(
    overlap: float, in_item: float, rank: int, is_asking: bool, speaker: int
) -> Iterator[tuple[str, float]]:
    """overlap, in_item: shares of the question's words in the sentence, and in its item; rank of the item, from 0;
    speaker: 1 where the question names who says it, -1 where it names somebody else, else 0."""
    yield "overlap", overlap
    yield "overlap of the item", in_item
    yield f"rank {min(rank, 3)}", 1.0
    if is_asking:
        yield "asking", 1.0
    if speaker:
        yield ("its speaker" if speaker > 0 else "another speaker"), 1.0


# --------------------------------------------------------------------------------------------------------------
# The best span
# --------------------------------------------------------------------------------------------------------------


def best_span(sentence: Sentence, asked: Asked, weights: Mapping[str, float]) -> tuple[float, int, int]:
    """(score, first word, last word) of the best span, without what its sentence adds; the first of equals."""
    count = len(sentence.words)

    def total(features: Iterator[str]) -> float:
        return sum(weights.get(name, 0.0) for name in features)

    first = [total(first_features(sentence, i, asked)) for i in range(count)]
    last = [total(last_features(sentence, j, asked)) for j in range(count)]
    lengths = [total(length_features(n, asked)) for n in range(1, LONGEST + 1)]
    best = (float("-inf"), 0, 0)
    inside = [total(inside_features(sentence, k, asked)) for k in range(count)]
    crossing = [total(break_features(sentence, k)) for k in range(count)]
    for i in range(count):
        running = first[i] - crossing[i]
        for j in range(i, min(i + LONGEST, count)):
            running += inside[j] + crossing[j]
            score = running + last[j] + lengths[j - i]
            if score > best[0]:
                best = (score, i, j)
    return best


def features_of(sentence: Sentence, i: int, j: int, asked: Asked) -> Iterator[str]:
    """All features of the span from word i to word j, but those of its sentence."""
    yield from first_features(sentence, i, asked)
    yield from last_features(sentence, j, asked)
    yield from length_features(j - i + 1, asked)
    for k in range(i, j + 1):
        yield from inside_features(sentence, k, asked)
        if k > i:
            yield from break_features(sentence, k)


def overlap(stems: Set[str], asked: Asked, speakers: Set[str]) -> float:
    """Share of the question's words that are among `stems`, names of speakers aside, which every item has."""
    wanted = asked.stems - speakers
    return len(wanted & stems) / len(wanted) if wanted else 0.0
