"""BM25 over the items of a memory.

Score of an item D for a query Q, N items, n(w) of them with the word w, f(w, D) its count in D:

    score(D, Q) = sum over the words w of Q, repeats counted, of
        idf(w) * f(w, D) * (k1 + 1) / (f(w, D) + k1 * (1 - b + b * |D| / mean |D|))

    idf "lucene":  ln(1 + (N - n + .5) / (n + .5)), always positive, so it ranks a memory of one item rightly
    idf "okapi":   ln((N - n + .5) / (n + .5)); where negative, 0.25 times the mean of these over all words

Words are `\\b\\w+\\b`, lower-cased; in scripts written without spaces, characters and pairs of them (`env/words.py`).

An index of our own and not `bm25s`, because a memory of a training run holds 2 to 30 items and is rebuilt after every
step of every rollout: there bm25s needs about 0.3 ms to build and 0.4 ms to ask, nearly all of it overhead, and this
index a tenth of that.

A long memory is indexed in blocks of a few hundred neighbouring items, which are kept (`_kept_block`). A step changes
few of them, so the index of the next snapshot costs what changed, whoever holds the snapshots before it. A block ends
behind a text whose checksum says so: an item inserted or removed moves no border but its own.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from finemem_jax.config import RetrievalConfig, UserError, unknown
from finemem_jax.env.words import search_terms

_EPSILON = 0.25  # floor of a negative Okapi idf, as a share of the mean idf
FEW = 64  # up to this many items, plain Python beats the cost of calling numpy
_BLOCK_ITEMS = (
    512  # mean size of a block; smaller ones are indexed again sooner, and a word is looked up in more of them
)
_STRIDE = 64  # items whose best score is looked at first

# What ASCII text becomes before it is split, which finds the same words twice as fast: letters are lower-cased, what is
# part of no word is a space.
_ASCII = bytes(ord(chr(byte).lower()) if byte < 128 and re.match(r"\w", chr(byte)) else ord(" ") for byte in range(256))


class Index(Protocol):
    """The texts of one memory snapshot, ready to be searched."""

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The `k` best texts as (index, score), best first, ties by insertion order."""


def open_index(texts: Sequence[str], cfg: RetrievalConfig) -> Index:
    """The index that `cfg` names. Raises UserError where the encoder of a dense one is missing."""
    if cfg.name == "dense":
        from finemem_jax.env import dense  # optional, and so are its libraries

        return dense.Dense(texts, dense.load_encoder(cfg.model))
    words = BM25(texts, k1=cfg.k1, b=cfg.b, idf=cfg.idf)
    if cfg.name == "hybrid":
        from finemem_jax.env import dense, hybrid

        return hybrid.Hybrid(words.search, dense.Dense(texts, dense.load_encoder(cfg.model)).search)
    return words


class _Block(NamedTuple):
    """The words of some neighbouring texts. Shared: read only."""

    rows: dict[str, int]  # word -> its row below
    starts: list[int]  # [rows + 1]: the postings of row r stand from starts[r] to starts[r + 1]
    postings: np.ndarray  # [2, postings]: who holds the word, ascending in a row, from 0 in each block; and how often
    lengths: np.ndarray  # [items], in words


def split_words(text: str) -> list[str]:
    """The words of a text, in their order, as `search_terms` has them."""
    if text.isascii():
        return text.encode().translate(_ASCII).decode().split()
    return search_terms(text)


@functools.lru_cache(maxsize=1 << 13)  # of items; where they are whole chunks, this many fill half a gigabyte
def _count_words(text: str) -> tuple[dict[str, int], int]:
    """Word -> its count, and the number of words. Shared between all that ask for the text: read only."""
    words = split_words(text)
    counts: dict[str, int] = {}
    for word in words:  # a Counter takes twice as long for a text as short as an item
        counts[word] = counts.get(word, 0) + 1
    return counts, len(words)


@functools.lru_cache(maxsize=1 << 16)
def _ends_block(text: str) -> bool:
    return zlib.crc32(text.encode("utf-8", "replace")) % _BLOCK_ITEMS == 0


def _postings(texts: Sequence[str]) -> tuple[dict[str, list[int]], list[int]]:
    """For a few texts: word -> item, count, item, count, …, items ascending; and the lengths in words."""
    postings: dict[str, list[int]] = {}
    lengths = []
    for item, text in enumerate(texts):
        counts, length = _count_words(text)
        lengths.append(length)
        for word, count in counts.items():
            if word in postings:
                postings[word] += (item, count)
            else:
                postings[word] = [item, count]
    return postings, lengths


def _index(texts: Sequence[str]) -> _Block:
    words: list[str] = []
    lengths = []
    for text in texts:
        own = split_words(text)
        words += own
        lengths.append(len(own))
    rows = defaultdict(itertools.count().__next__)  # a word not met before has the next row
    # one number per word that stands in the texts; sorted, those of one word and item are neighbours
    keys = np.fromiter(map(rows.__getitem__, words), np.int64, len(words)) * len(texts)
    rows.default_factory = None  # whoever asks later adds none
    keys += np.repeat(np.arange(len(texts)), lengths)
    keys.sort()
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    row, items = np.divmod(keys[firsts], len(texts))
    postings = np.array([items, np.diff(firsts, append=len(keys))], np.int32)
    starts = np.searchsorted(row, np.arange(len(rows) + 1)).tolist()
    return _Block(rows, starts, postings, np.array(lengths, np.int64))


_kept_block = functools.lru_cache(maxsize=1 << 12)(_index)


def _blocks(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """`texts` in runs that end behind the texts which say so."""
    start = 0
    for position, text in enumerate(texts, start=1):
        if _ends_block(text):
            yield tuple(texts[start:position])
            start = position
    if start < len(texts):
        yield tuple(texts[start:])


def forget() -> None:
    """Drops what is kept of texts seen before, so that a measurement begins as a process does."""
    for kept in (_count_words, _ends_block, _kept_block):
        kept.cache_clear()


class BM25:
    """An index over `texts`, built once per memory snapshot and shared by all its questions."""

    def __init__(self, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75, idf: str = "lucene"):
        if idf not in ("lucene", "okapi"):
            raise UserError(unknown(idf, ["lucene", "okapi"], "config.retrieval.idf"))
        self._size, self._k1, self._keeps_zeros = len(texts), k1, idf == "okapi"
        is_small = self._size <= FEW
        if is_small:
            self._postings, lengths = _postings(texts)
            total = sum(lengths)
        else:
            self._blocks = [_kept_block(part) for part in _blocks(texts)]
            self._firsts = [0, *itertools.accumulate(len(block.lengths) for block in self._blocks[:-1])]
            many = np.concatenate([block.lengths for block in self._blocks])  # [items]
            total = int(many.sum())
        mean = total / max(self._size, 1) or 1.0  # no words at all: nothing is ever divided by it
        if is_small:
            self._damping = [k1 * (1 - b + b * length / mean) for length in lengths]
        else:
            self._damping = k1 * (1 - b + b / mean * many)  # [items]
        self._floor = okapi_floor(Counter(self._holders().values()), self._size) if idf == "okapi" else None
        self._weights: dict[str, tuple] = {}  # word -> (items, their scores for it), filled as words are asked for

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The `k` best items as (index, score), best first, ties by insertion order, earlier first.

        With idf "lucene" an item that shares no word with the query is not returned, so nothing may be retrieved.
        With "okapi" min(k, items) are always returned, as the reference does: a score of 0 or below says nothing there.
        """
        if k <= 0 or not self._size:
            return []
        words = split_words(query)
        return self._search_few(words, k) if self._size <= FEW else self._search_many(words, k)

    def _search_few(self, words: list[str], k: int) -> list[tuple[int, float]]:
        scores = dict.fromkeys(range(self._size), 0.0) if self._keeps_zeros else {}
        for word in words:
            if word not in self._weights:
                self._weights[word] = self._weigh_few(word)
            for item, weight in zip(*self._weights[word], strict=True):
                scores[item] = scores.get(item, 0.0) + weight
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]

    def _search_many(self, words: list[str], k: int) -> list[tuple[int, float]]:
        padded = np.full(-(-self._size // _STRIDE) * _STRIDE, -np.inf)
        scores = padded[: self._size]  # [items]
        scores[:] = 0.0
        for word in words:
            if word not in self._weights:
                self._weights[word] = self._weigh_many(word)
            items, weights = self._weights[word]
            scores[items] += weights
        # At least k scores are as high as the k-th highest of the maxima of stretches, so the k best, and all that tie
        # with them, are among those: far fewer to sort, and twice as fast as a partition of them all.
        maxima = padded.reshape(-1, _STRIDE).max(axis=1)
        least = np.partition(maxima, -k)[-k] if k <= len(maxima) else -np.inf
        is_found = scores >= least if self._keeps_zeros or least > 0 else scores > 0
        found = np.flatnonzero(is_found)
        best = found[np.argsort(-scores[found], kind="stable")[:k]]
        return list(zip(best.tolist(), scores[best].tolist(), strict=True))

    def _weigh_few(self, word: str) -> tuple:
        """(items that hold the word, what it adds to their scores), two lists."""
        posting = self._postings.get(word, [])
        scale = self._idf(len(posting) // 2) * (self._k1 + 1)
        items, counts = posting[::2], posting[1::2]
        return items, [scale * n / (n + self._damping[item]) for item, n in zip(items, counts, strict=True)]

    def _weigh_many(self, word: str) -> tuple:
        """The same as an index and an array."""
        found, firsts, sizes = [], [], []  # of the blocks that hold it
        for (rows, starts, postings, _), first in zip(self._blocks, self._firsts, strict=True):
            row = rows.get(word)
            if row is not None:
                start, end = starts[row], starts[row + 1]
                found.append(postings[:, start:end])
                firsts.append(first)
                sizes.append(end - start)
        if not found:
            return np.zeros(0, np.intp), np.zeros(0)
        items, counts = np.concatenate(found, axis=1)
        items += np.repeat(np.array(firsts, np.int32), sizes)
        weights = self._idf(len(items)) * (self._k1 + 1) * counts / (counts + self._damping[items])
        if len(items) <= self._size // 16:
            return items, weights
        column = np.zeros(self._size)  # [items]: adding a whole column is faster than picking most of it
        column[items] = weights
        return slice(None), column

    def _holders(self) -> dict[str, int]:
        """Each word, and how many items hold it."""
        if self._size <= FEW:
            return {word: len(posting) // 2 for word, posting in self._postings.items()}
        holders: dict[str, int] = {}
        for block in self._blocks:
            for word, row in block.rows.items():
                holders[word] = holders.get(word, 0) + block.starts[row + 1] - block.starts[row]
        return holders

    def _idf(self, holders: int) -> float:
        if self._floor is None:
            return math.log(1 + (self._size - holders + 0.5) / (holders + 0.5))
        idf = okapi_idf(self._size, holders)
        return self._floor if idf < 0 else idf


def okapi_idf(size: int, holders: int) -> float:
    return math.log(size - holders + 0.5) - math.log(holders + 0.5)


def okapi_floor(spread: Mapping[int, int], size: int) -> float:
    """The idf that replaces negative ones: 0.25 times the mean over all words, negative ones included.

    spread: how many words have so many holders. The sum does not depend on their order."""
    total = math.fsum(words * okapi_idf(size, holders) for holders, words in spread.items())
    return _EPSILON * total / sum(spread.values()) if spread else 0.0
