"""BM25 over items that come, change and go one by one: a write costs its own words, not the memory.

It ranks as `env/retrieval.py` does over the items as they stand, with the same scores to the last bit: train = use.
Postings only grow; a text that is gone stays in them, is passed over, and goes when half of all are gone.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np

from finemem_jax.config import RetrievalConfig
from finemem_jax.env import retrieval

_FEWEST_GONE = 1024  # texts, before it is worth the while to build anew


@dataclass(slots=True)
class _Posting:
    pairs: array  # slot, count, slot, count, …
    holders: int = 0  # of them that are there still


class Ranking:
    """Texts by key, in an order of their own."""

    def __init__(self, cfg: RetrievalConfig):
        self._cfg = cfg
        self._begin()

    def _begin(self) -> None:
        self._slots: dict[str, int] = {}  # of the texts that are there
        self._keys: list[str] = []  # by slot, as all that follows
        self._texts: list[str] = []
        self._places = array("q")
        self._lengths = array("q")
        self._is_there = bytearray()
        self._postings: dict[str, _Posting] = {}
        self._spread: Counter[int] = Counter()  # how many words have so many holders
        self._total = 0  # words of all that are there

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, key: str, text: str, place: int) -> None:
        """A text that is new, or in the place of the one with its key. place: ties go to the lower one."""
        self.remove(key)
        slot, words = len(self._keys), retrieval.split_words(text)
        self._slots[key] = slot
        self._keys.append(key)
        self._texts.append(text)
        self._places.append(place)
        self._lengths.append(len(words))
        self._is_there.append(1)
        self._total += len(words)
        counts: dict[str, int] = {}
        for word in words:  # a Counter takes twice as long for a text as short as an item
            counts[word] = counts.get(word, 0) + 1
        for word, count in counts.items():
            posting = self._postings.get(word)
            if posting is None:
                posting = self._postings[word] = _Posting(array("i"))
            posting.pairs.extend((slot, count))
            self._hold(posting, 1)

    def remove(self, key: str) -> None:
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        self._is_there[slot] = 0
        self._total -= self._lengths[slot]
        for word in set(retrieval.split_words(self._texts[slot])):
            self._hold(self._postings[word], -1)
        gone = len(self._keys) - len(self._slots)
        if gone > max(len(self._slots), _FEWEST_GONE):
            self._build_anew()

    def _hold(self, posting: _Posting, more: int) -> None:
        if self._cfg.idf == "okapi":
            self._spread[posting.holders] -= 1
            self._spread[posting.holders + more] += 1
        posting.holders += more

    def _build_anew(self) -> None:
        there = [(self._keys[slot], self._texts[slot], self._places[slot]) for slot in self._slots.values()]
        self._begin()
        for key, text, place in there:
            self.put(key, text, place)

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """The `k` best as (key, score), best first (`BM25.search`)."""
        if k <= 0 or not self._slots:
            return []
        if len(self._slots) <= retrieval.FEW:  # there scores are summed in another order
            slots = sorted(self._slots.values(), key=lambda slot: self._places[slot])
            index = retrieval.open_index([self._texts[slot] for slot in slots], self._cfg)
            return [(self._keys[slots[i]], score) for i, score in index.search(query, k)]
        scores = self._scores(retrieval.split_words(query))
        is_there = np.frombuffer(self._is_there, np.bool_)
        found = np.flatnonzero(is_there if self._cfg.idf == "okapi" else scores > 0)
        if len(found) > k:
            least = np.partition(scores[found], -k)[-k]
            found = found[scores[found] >= least]
        places = np.frombuffer(self._places, np.int64)[found]
        best = found[np.lexsort((places, -scores[found]))[:k]]
        return [(self._keys[slot], float(scores[slot])) for slot in best]

    def _scores(self, words: list[str]) -> np.ndarray:
        """[slots]; in the order of operations of `BM25`, so that sums round alike."""
        size, k1, b = len(self._slots), self._cfg.k1, self._cfg.b
        mean = self._total / size or 1.0
        scores = np.zeros(len(self._keys))
        lengths = np.frombuffer(self._lengths, np.int64)
        is_there = np.frombuffer(self._is_there, np.bool_)
        floor = self._floor() if self._cfg.idf == "okapi" else None
        weighed: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word in words:
            posting = self._postings.get(word)
            if posting is None or not posting.holders:
                continue
            if word not in weighed:
                slots, counts = np.frombuffer(posting.pairs, np.int32).reshape(-1, 2).T
                if posting.holders < len(slots):
                    kept = is_there[slots]
                    slots, counts = slots[kept], counts[kept]
                damping = k1 * (1 - b + b / mean * lengths[slots])
                weighed[word] = slots, self._idf(posting.holders, floor) * (k1 + 1) * counts / (counts + damping)
            slots, weights = weighed[word]
            scores[slots] += weights
        return scores

    def _idf(self, holders: int, floor: float | None) -> float:
        size = len(self._slots)
        if floor is None:
            return math.log(1 + (size - holders + 0.5) / (holders + 0.5))
        idf = retrieval.okapi_idf(size, holders)
        return floor if idf < 0 else idf

    def _floor(self) -> float:
        spread = {holders: words for holders, words in self._spread.items() if holders > 0 and words}
        return retrieval.okapi_floor(spread, len(self._slots))
