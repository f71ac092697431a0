"""What became of the facts of the stream, where they are known and can be told by their words (`Chunk.points`): in the
diary, in conflict streams.

Looked at right behind the turn that read a fact. An item holds a fact if the fact's value stands in it in a row and two
thirds of the words that say what it is about; it is about the fact if it has those words, whatever value.

facts               how many were told, changes among them
facts/stored        share that some item is about
facts/right         share that some item holds
facts/updated       share of the changes that are held, while no item holds the old value alone
facts/kept_old      share of the changes behind which an item holds the old value alone
facts/unneeded      share of the items of the final memory that hold no fact that was ever told
facts/outdated      share of them that hold nothing but facts that have changed since
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from finemem_jax.config import Config
from finemem_jax.env.scoring import normalise
from finemem_jax.types import MemoryItem, Point, Rollout

IN_TRAINING = False
_SHARES = ("stored", "right", "updated", "kept_old", "unneeded", "outdated")
COLUMNS = {"facts": ".0f", **{f"facts/{name}": ".3f" for name in _SHARES}}
TABLE = "what became of the facts, by their words"
_POSSESSIVE = re.compile(r"['’]s\b", re.IGNORECASE)
_ABOUT = 2 / 3  # share of the words of what a fact is about that an item must have


class _Words:
    """An item's words, in a row and as a set."""

    def __init__(self, item: MemoryItem):
        words = _words_of(item.text)
        self.row, self.words = f" {' '.join(words)} ", set(words)

    def is_about(self, point: Point) -> bool:
        wanted = {word for text in point.about for word in _words_of(text)}
        return len(wanted & self.words) >= math.ceil(_ABOUT * len(wanted) - 1e-9)

    def holds(self, point: Point) -> bool:
        return f" {' '.join(_words_of(point.value))} " in self.row and self.is_about(point)


def _words_of(text: str) -> tuple[str, ...]:
    """Normalised, and "Maya's" is about Maya."""
    return normalise(_POSSESSIVE.sub("", text))


def record(rollout: Rollout, has_model: bool) -> dict:
    counts: Counter[str] = Counter()
    told: dict[str, Point] = {}  # by its text
    changed: set[str] = set()  # texts of facts that hold no more
    known: dict[str, _Words] = {}  # an item's words, by its text
    for chunk in rollout.episode.chunks:
        points = [point for point in chunk.points or () if point.value and not point.is_false]
        changed |= {text for point in chunk.points or () for text in point.replaces if text in told}
        if not points:
            continue
        memory = rollout.memory_after(chunk.index)
        items = _words(memory.items if memory is not None else (), known)
        for point in points:
            told[point.text] = point
            old = [told[text] for text in point.replaces if text in told]
            is_held = any(words.holds(point) for words in items)
            counts["facts"] += 1
            counts["stored"] += any(words.is_about(point) for words in items)
            counts["right"] += is_held
            if old:
                keeps = any(words.holds(other) and not words.holds(point) for words in items for other in old)
                counts["changes"] += 1
                counts["updated"] += is_held and not keeps
                counts["kept_old"] += keeps
    if told and rollout.memory is not None:
        present = [point for point in told.values() if point.text not in changed]
        past = [told[text] for text in changed]
        for words in _words(rollout.memory.items, known):
            counts["items"] += 1
            if not any(words.holds(point) for point in present):
                counts["outdated" if any(words.holds(point) for point in past) else "unneeded"] += 1
    return dict(counts)


def _words(items: Iterable[MemoryItem], known: dict[str, _Words]) -> list[_Words]:
    for item in items:
        if item.text not in known:
            known[item.text] = _Words(item)
    return [known[item.text] for item in items]


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    def total(name: str) -> int:
        return sum(found.get(name, 0) for found in records)

    of = {"updated": "changes", "kept_old": "changes", "unneeded": "items", "outdated": "items"}
    shares = {name: total(name) / max(total(of.get(name, "facts")), 1) for name in _SHARES}
    return {"facts": float(total("facts")), **{f"facts/{name}": share for name, share in shares.items()}}
