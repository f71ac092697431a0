"""Who holds which page of the cache, and which pages are known by the tokens in them.

A page is known when it is full of a prompt's tokens: its name is those tokens and the page before it, or the number of
the weights that it was computed under (`Request.weights`), so that two prompts find the same page exactly when they
begin alike up to its end and were read with the same weights. A known page that nobody holds stays readable until its
room is needed; the one unused for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from finemem_jax.nn.paged_cache import SCRATCH


def _root(weights: int) -> int:
    """Stands for the page before a row's first, of rows that are read with these weights."""
    return -1 - weights


class Pages:
    """The pages of a pool but for the scratch page. All methods are exact about holders: a page is held once per
    `take` or `share`, and given back once per hold."""

    def __init__(self, pages: int, page: int):
        self.page = page
        self._free = [i for i in range(pages - 1, -1, -1) if i != SCRATCH]  # the last given back is taken first
        self._holders = [0] * pages
        self._idle: OrderedDict[int, None] = OrderedDict()  # known, held by nobody; unused for longest first
        self._names: dict[int, tuple] = {}  # page -> (serial of the page before, its tokens)
        self._serials: dict[int, int] = {}  # page -> a number that no other page ever had
        self._found: dict[tuple, int] = {}  # name -> page
        self._next = 0

    @property
    def usable(self) -> int:
        """Pages that there are, held or not."""
        return len(self._holders) - 1

    @property
    def available(self) -> int:
        """Pages that `take` can give out."""
        return len(self._free) + len(self._idle)

    def count(self, tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-tokens // self.page)

    def take(self, count: int) -> list[int] | None:
        """So many pages with unknown contents, or None (and none taken) when there are not enough."""
        if count > self.available:
            return None
        taken = []
        for _ in range(count):
            if not self._free:
                page, _ = self._idle.popitem(last=False)
                self._forget(page)
                self._free.append(page)
            taken.append(self._free.pop())
            self._holders[taken[-1]] = 1
        return taken

    def share(self, tokens: Sequence[int], weights: int = 0) -> list[int]:
        """The known pages that hold the longest beginning of `tokens`, whole pages only; each is held once more.

        weights: number of those that they are read with."""
        found, before = [], _root(weights)
        for start in range(0, len(tokens) - self.page + 1, self.page):
            page = self._found.get((before, tuple(tokens[start : start + self.page])))
            if page is None:
                break
            self._idle.pop(page, None)
            self._holders[page] += 1
            found.append(page)
            before = self._serials[page]
        return found

    def name(self, pages: Sequence[int], tokens: Sequence[int], weights: int = 0) -> None:
        """Makes the full pages of a row, from its first on, known by `tokens`. Names that exist are kept."""
        before = _root(weights)
        for page, start in zip(pages, range(0, len(tokens) - self.page + 1, self.page), strict=False):
            if page not in self._names:
                name = (before, tuple(tokens[start : start + self.page]))
                if name in self._found:  # the same tokens in another page, which goes on to be the known one
                    return
                self._names[page], self._found[name], self._serials[page] = name, page, self._next
                self._next += 1
            before = self._serials[page]

    def give_back(self, pages: Sequence[int]) -> None:
        """One hold less on each page of a row, given from its first page to its last."""
        for page in reversed(pages):  # the end of a row is no use without its beginning: it ages first
            self._holders[page] -= 1
            if not self._holders[page]:
                if page in self._names:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def _forget(self, page: int) -> None:
        del self._found[self._names.pop(page)]
        del self._serials[page]
