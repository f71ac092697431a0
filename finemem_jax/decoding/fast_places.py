"""Fast weights of the engine: all of them on the host, by number, and on the device those of the rows that run.

A write makes new fast weights with a number of their own; the old ones stay readable, since turns that were sampled
under them are trained under them. The device has a place for every row, and the weights used last stay in theirs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Int

from finemem_jax.config import FastConfig
from finemem_jax.nn.fast_weights import FastWeights, Memory
from finemem_jax.nn.typed import Tree
from finemem_jax.rl.fast_write import Texts
from finemem_jax.types import Lesson

NONE = 0  # number of no fast weights, and the place of zeros


@flax.struct.dataclass
class FastPool(Tree):
    """A, and B of every place; place 0 is zeros."""

    a: Any  # projection -> [layers, in, rank]
    b: Any  # projection -> [places, layers, rank, out]
    scale: float = flax.struct.field(pytree_node=False, default=1.0)

    def rows(self, places: Int[Array, "rows"]) -> FastWeights:
        """What rows with these places carry."""
        return FastWeights(self.a, jax.tree.map(lambda b: b[places], self.b), self.scale)

    def load(self, place: Int[Array, ""], memory: Memory) -> FastPool:
        """The pool with B of one place replaced."""
        return FastPool(self.a, jax.tree.map(lambda b, new: b.at[place].set(new), self.b, memory), self.scale)


class FastPlaces:
    """B by number, and who lies where on the device."""

    def __init__(self, slots: int, first: int = 1):
        """first: the number that is given next. Pages of the cache may know lower ones."""
        self.known: dict[int, Memory] = {}
        self._free = list(range(slots, NONE, -1))
        self._places: OrderedDict[int, int] = OrderedDict()  # by number; used last at the end
        self.next = first

    def add(self, memory: Memory) -> int:
        """Keeps B, and says its number. Numbers are never used again."""
        number, self.next = self.next, self.next + 1
        self.known[number] = memory
        return number

    def place(self, number: int) -> tuple[int, bool]:
        """Where B of this number lies, and whether it is to be loaded there first. The one used longest ago makes
        room; as many as there are places can be used by one call."""
        if number == NONE:
            return NONE, False
        if is_new := number not in self._places:
            self._places[number] = self._free.pop() if self._free else self._places.popitem(last=False)[1]
        self._places.move_to_end(number)
        return self._places[number], is_new

    def unplace(self) -> None:
        """Nothing lies on the device any more."""
        self._free += self._places.values()
        self._places.clear()


def pad_texts(lessons: Sequence[Sequence[Lesson]], owners: int, seq: int, cfg: FastConfig) -> Texts:
    """What each of `owners` learns, as numpy; those beyond the given learn nothing."""
    count = -(-cfg.max_texts // cfg.batch) * cfg.batch
    tokens = np.zeros((owners, count, seq), np.int32)
    lengths, starts = np.zeros((2, owners, count), np.int32)
    for owner, own in enumerate(lessons):
        if len(own) > count:
            raise ValueError(f"a write learns {len(own)} texts, config.method.fast.max_texts={cfg.max_texts}")
        for place, lesson in enumerate(own):
            lengths[owner, place], starts[owner, place] = len(lesson.tokens), lesson.start
            tokens[owner, place, : lengths[owner, place]] = lesson.tokens
    return Texts(tokens, lengths, starts)
