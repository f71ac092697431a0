"""How far two judges say the same of the same answers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_RIGHT = 0.5  # a score from which an answer counts as right


@dataclass(frozen=True, slots=True)
class Agreement:
    answers: int  # that both judged
    raw: float  # share of them of which both say the same, in [0, 1]
    kappa: float | None  # Cohen's, in [-1, 1]; None where both always say one and the same thing: nothing can be told
    first: float  # share that the first judge calls right
    second: float


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(p_o - p_e) / (1 - p_e): agreement beyond that of two who say their labels as often, but at random.

    pairs: (label of the first, label of the second) per answer. None without a pair, or where p_e is 1."""
    if not pairs:
        return None
    count = len(pairs)
    observed = sum(a == b for a, b in pairs) / count
    firsts, seconds = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(firsts[label] * seconds[label] for label in firsts) / count**2
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def agreements(questions: Iterable[Mapping]) -> dict[tuple[str, str], Agreement]:
    """Of every two judges of the question records ("judges": {name: {"score", "label"}}), over the answers that both
    gave a verdict on, right or wrong."""
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for question in questions:
        found = question.get("judges", {})
        for first, second in itertools.combinations(found, 2):
            pair = found[first]["score"], found[second]["score"]
            scores.setdefault((first, second), [])
            if None not in pair:
                scores[first, second].append(pair)
    return {names: _agreement(pairs) for names, pairs in scores.items()}


def _agreement(pairs: Sequence[tuple[float, float]]) -> Agreement:
    called = [(a >= _RIGHT, b >= _RIGHT) for a, b in pairs]
    count = max(len(pairs), 1)
    return Agreement(
        len(pairs),
        sum(a == b for a, b in called) / count,
        cohens_kappa([(str(a), str(b)) for a, b in called]),
        sum(a for a, _ in called) / count,
        sum(b for _, b in called) / count,
    )
