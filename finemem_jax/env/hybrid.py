"""Hybrid retrieval: BM25 and dense, merged by reciprocal rank fusion (`config.retrieval.name=hybrid`).

score(item) = Σ over both rankings of 1 / (60 + rank), rank from 1 (Cormack et al. 2009): ranks compare where scores of
a word count and a cosine do not. An item that only one of them finds has the one term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

CONSTANT = 60  # of the fusion: how little the first ranks stand out
_DEPTH = 4  # ranks of each that are looked at, as a multiple of those that are wanted,
_LEAST = 60  # and at least so many


class Hybrid:
    """An index made of others over the same texts, with the interface of BM25."""

    def __init__(self, *searches: Callable[[str, int], Sequence[tuple[int, float]]]):
        """searches: the `search` of each."""
        self._searches = searches

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The `k` best items as (index, fused score), best first, ties by insertion order."""
        if k <= 0:
            return []
        scores: dict[int, float] = {}
        for search in self._searches:
            for rank, (item, _) in enumerate(search(query, max(_DEPTH * k, _LEAST)), 1):
                scores[item] = scores.get(item, 0.0) + 1 / (CONSTANT + rank)
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
