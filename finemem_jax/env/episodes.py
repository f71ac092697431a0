"""Streams of episodes: in an order fixed by a seed, in shards per process, from a position that can be saved. And a
sample of them that stands for all their data sources."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from finemem_jax.types import Episode


def stream_indices(available: int, seed: int, positions: Iterable[int]) -> list[int]:
    """Which of `available` episodes stand at these positions of the endless stream of `seed`.

    Every epoch is a permutation of all of its own, so none is seen twice before all were seen.
    """
    orders: dict[int, list[int]] = {}  # epoch -> permutation
    indices = []
    for position in positions:
        epoch, offset = divmod(position, available)
        if epoch not in orders:
            orders[epoch] = random.Random(f"order {seed} {epoch}").sample(range(available), available)
        indices.append(orders[epoch][offset])
    return indices


@dataclass(frozen=True, slots=True)
class EpisodeStream:
    """An endless stream over `episodes`, as an immutable value: `take` returns what follows and the stream after it.

    `position` counts the episodes that all shards together have taken, so a saved one can be restored with another
    number of shards, as long as all shards stand at the same `take`.
    """

    episodes: Sequence[Episode]
    seed: int
    shard: int = 0  # of this process, from 0
    shards: int = 1
    position: int = 0

    def __post_init__(self) -> None:
        if not len(self.episodes) or not 0 <= self.shard < self.shards or self.position < 0:
            raise ValueError(
                f"{len(self.episodes)} episodes, shard {self.shard} of {self.shards}, position {self.position}"
            )

    def take(self, count: int) -> tuple[list[Episode], EpisodeStream]:
        """The next `count` episodes of this shard. All shards' takes together are what one shard alone would take,
        each a run of consecutive positions."""
        start = self.position + self.shard * count
        indices = stream_indices(len(self.episodes), self.seed, range(start, start + count))
        return [self.episodes[i] for i in indices], replace(self, position=self.position + count * self.shards)


def drawn_evenly(episodes: Sequence[Episode], count: int, seed: int) -> list[Episode]:
    """`count` of the episodes in their order (0 or too many = all), as evenly over their data sources as these allow.

    Files are often sorted by source, so the first rows would stand for one source alone. A source with fewer episodes
    than its share gives all it has, and the others share the rest; with fewer episodes wanted than there are sources,
    chance says which have one. Which episodes of a source are taken is drawn too.
    """
    if not 0 < count < len(episodes):
        return list(episodes)
    rng = random.Random(f"held out {seed}")
    by_source: dict[str, list[int]] = {}
    for index, episode in enumerate(episodes):
        by_source.setdefault(episode.source, []).append(index)
    waiting = [rng.sample(found, len(found)) for _, found in sorted(by_source.items())]
    rng.shuffle(waiting)
    chosen: list[int] = []
    while len(chosen) < count:
        for indices in waiting:
            if indices and len(chosen) < count:
                chosen.append(indices.pop())
    return [episodes[index] for index in sorted(chosen)]


def chunks_at(curriculum: Sequence[int], done: float) -> int:
    """Most chunks of an episode when a share `done` of the run is behind: each entry holds for an equal share. 0 = all.

    Example: (2, 4) gives 2 below a half, 4 from there on."""
    return curriculum[min(int(done * len(curriculum)), len(curriculum) - 1)] if curriculum else 0


def cut_episode(episodes: Sequence[Episode], index: int, chunks: int) -> Episode:
    """Episode `index`, with its first `chunks` chunks (0 = all) and the questions that these answer.

    A benchmark that makes its episodes up asks anew about what holds then (its `cut`). Of any other, the final
    questions are kept whose evidence is known to lie within; an episode of which none does is cut where its first
    question can be answered, and stays whole where no evidence is known. The cut episode has a name of its own.
    """
    if not chunks:
        return episodes[index]
    if hasattr(episodes, "cut"):
        return episodes.cut(index, chunks)
    episode = episodes[index]
    known = [max(question.evidence) + 1 for question in episode.questions if question.evidence]
    most = max(chunks, min(known, default=len(episode.chunks)))
    if most >= len(episode.chunks):
        return episode
    kept = tuple(q for q in episode.questions if q.evidence and max(q.evidence) < most and (q.after or 0) < most)
    return replace(episode, id=f"{episode.id}:{most}", chunks=episode.chunks[:most], questions=kept)


def longest(episodes: Sequence[Episode], looked_at: int = 256) -> int:
    """Chunks of the longest episode; of those that are made up on access, of the first ones."""
    count = len(episodes) if isinstance(episodes, tuple | list) else min(len(episodes), looked_at)
    return max((len(episodes[index].chunks) for index in range(count)), default=0)


def left_out(episodes: Sequence[Episode], chosen: Sequence[Episode]) -> str:
    """Per data source, how many of its episodes were chosen: "hotpotqa 21 of 219, squad 21 of 30"."""
    there, taken = (Counter(episode.source for episode in group) for group in (episodes, chosen))
    return ", ".join(f"{source} {taken[source]} of {there[source]}" for source in sorted(there))
