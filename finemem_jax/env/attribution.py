"""How much each retrieved item had to do with an answer's score, from the scores with some of the items left out.

A set of items is a number whose bit i says that item i is in it; `full(k)` has all k of them, 0 none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

EXACT = 4  # so many items at most have all their subsets asked: 2^k questions


def full(items: int) -> int:
    return (1 << items) - 1


def subsets(rule: str, items: int, permutations: int, seed: str) -> tuple[int, ...]:
    """The sets, other than the full one, whose scores the rule needs, smallest first."""
    if rule == "leave_one_out":
        needed = {full(items) ^ (1 << i) for i in range(items)}
    elif rule == "shapley" and items <= EXACT:
        needed = set(range(full(items)))
    elif rule == "shapley":
        needed = {prefix for order in orders(items, permutations, seed) for prefix in _prefixes(order)} - {full(items)}
    else:
        raise ValueError(f"evidence.attribution={rule!r}: allowed are leave_one_out, shapley")
    return tuple(sorted(needed, key=lambda bits: (bits.bit_count(), bits)))


def orders(items: int, permutations: int, seed: str) -> list[list[int]]:
    """The orders in which items are put in, drawn by `seed` alone: whoever asks and whoever pays draw the same."""
    rng = random.Random(f"shapley {seed} {items}")
    return [rng.sample(range(items), items) for _ in range(permutations)]


def item_credit(rule: str, items: int, scores: Mapping[int, float], permutations: int, seed: str) -> list[float]:
    """Of each item, what it is to be paid of the score; what they leave is of no item.

    scores: by set of items, the full one and all of `subsets` in it. With v(S) the score of the set S, N all items:

    leave_one_out  d_i = max(v(N) - v(N without i), 0), scaled to sum to v(N); 0 for all where none makes a difference:
                   of two items that say the same, each alone suffices and neither is paid.
    shapley        the mean over all orders of v(S with i) - v(S), S the items before i: two items that say the same
                   share, an item that was only retrieved beside them gets nothing, one that misleads less than
                   nothing. They sum to v(N) - v(none). Exact up to EXACT items, the mean over drawn orders above.
    """
    if not items:
        return []
    whole = scores[full(items)]
    if rule == "leave_one_out":
        made = [max(whole - scores[full(items) ^ (1 << i)], 0.0) for i in range(items)]
        return [whole * d / sum(made) for d in made] if sum(made) else [0.0] * items
    credit = [0.0] * items
    if items <= EXACT:
        for bits in range(full(items)):
            size = bits.bit_count()
            share = math.factorial(size) * math.factorial(items - size - 1) / math.factorial(items)
            for i in range(items):
                if not bits >> i & 1:
                    credit[i] += share * (scores[bits | 1 << i] - scores[bits])
        return credit
    drawn = orders(items, permutations, seed)
    for order in drawn:
        for item, before in zip(order, _prefixes(order), strict=False):
            credit[item] += (scores[before | 1 << item] - scores[before]) / len(drawn)
    return credit


def _prefixes(order: list[int]) -> list[int]:
    """The empty set, and the sets of the first 1, 2, … items of an order."""
    found = [0]
    for item in order:
        found.append(found[-1] | 1 << item)
    return found
