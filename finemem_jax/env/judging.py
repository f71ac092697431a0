"""What a turn wrote is judged while the episode goes on, for reward terms that want to know (`Probing.judged_by`)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from finemem_jax.config import resolve
from finemem_jax.env.environment import Environment
from finemem_jax.types import Judgement, Step

WRITES = ("insert", "update", "replace")


def judge_writes(env: Environment, step: Step, terms: tuple[str, ...]) -> Callable[[], list[Judgement]]:
    """Starts judging every item that the turn wrote, as it stands behind it; the result waits for the verdicts. Of
    several operations on an item the last is judged.

    Without a judge (a rehearsal) all of them are missing."""
    items = {item.id: item for item in step.memory_after.items}
    places = {o.item: place for place, o in enumerate(step.outcomes) if o.ok and o.verb in WRITES}
    written = [(place, items[name]) for name, place in places.items() if name in items]
    asked: list[tuple[str, int, Future[float | None] | None]] = []
    for term in terms:
        requests = [resolve("finemem_jax.rewards", term).judgement(item) for _, item in written]
        futures = env.judge.submit(requests) if env.judge is not None and requests else [None] * len(requests)
        asked += [(term, place, future) for (place, _), future in zip(written, futures, strict=True)]

    def collect() -> list[Judgement]:
        found = [(term, place, None if future is None else future.result()) for term, place, future in asked]
        return [Judgement(term, step.index, place, score) for term, place, score in found]

    return collect
