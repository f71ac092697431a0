"""Tokens of texts: how many, and where each ends, so that a long text is read once however it is cut.

What took long is kept between runs in the cache folder: $FINEMEM_CACHE, or `finemem` in $XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import regex

from finemem_jax.env.words import CHARACTER, SPACED, is_special
from finemem_jax.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
_SPECIAL_WORD_OR_SIGN = regex.compile(rf"(?V1){CHARACTER}|{SPACED}+|[^\w\s]")
_WORD_AFTER_SPACE = re.compile(r"\s*+\S*+")  # at the end of a text without a word: a search that fails is quadratic
_SLICE_CHARACTERS = 1 << 20  # of a text, tokenized at once: bounds the memory that takes
_BATCH_TEXTS = 256
_KEPT_FROM = 1024  # characters; shorter texts are counted as fast as they are looked up
_MOST_KEPT_BYTES = 64 << 20


class WordCounter:
    """Counts words and signs, for those who have no tokenizer; in scripts without spaces, characters."""

    def __call__(self, text: str) -> int:
        return sum(1 for _ in self._found(text))

    def ends(self, text: str) -> array:
        """Where each token ends, ascending, in characters."""
        return array("q", (found.end() for found in self._found(text)))

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [self(text) for text in texts]

    def of(self, make: Callable[[], list[int]], *what: object) -> list[int]:
        return make()

    def keep(self) -> None:
        """Nothing of it is worth a file."""

    def _found(self, text: str) -> Iterator:
        return (_SPECIAL_WORD_OR_SIGN if is_special(text) else _WORD_OR_SIGN).finditer(text)


class TokenCounter:
    """Counts a tokenizer's tokens. Counts are cached: lengths of memory items are asked for again and again."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._count = functools.lru_cache(maxsize=65536)(self._length)
        self._kept: Kept | None = None

    def __call__(self, text: str) -> int:
        return self._count(text)

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def ends(self, text: str) -> array:
        """Where each token ends, ascending, in characters. A tokenizer without offsets is asked word by word."""
        if not self._tokenizer.is_fast:
            return ends_by_words(text, self)
        ends = array("q")
        for start, end in _slices(text):
            encoded = self._tokenizer.backend_tokenizer.encode(text[start:end], add_special_tokens=False)
            ends.extend(start + stop for _, stop in encoded.offsets)
        return ends

    def counts(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, those of long ones kept between runs."""
        found = [self._stored().get(_digest("count", text)) if len(text) >= _KEPT_FROM else None for text in texts]
        missing = [index for index, count in enumerate(found) if count is None]
        for start in range(0, len(missing), _BATCH_TEXTS):
            batch = missing[start : start + _BATCH_TEXTS]
            for index, count in zip(batch, self._lengths([texts[i] for i in batch]), strict=True):
                found[index] = [count]
                if len(texts[index]) >= _KEPT_FROM:
                    self._stored().put(_digest("count", texts[index]), [count])
        return [count for (count,) in found]  # type: ignore[misc]

    def _lengths(self, texts: list[str]) -> list[int]:
        if not self._tokenizer.is_fast:
            return [self(text) for text in texts]
        # The backend works on all texts of a batch at once, in threads of its own.
        encoded = self._tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [len(tokens) for tokens in encoded]

    def of(self, make: Callable[[], list[int]], *what: object) -> list[int]:
        """What `make` gives for `what`, a text the last of it: kept between runs where the text is long."""
        if len(str(what[-1])) < _KEPT_FROM:
            return make()
        key = _digest(*what)
        numbers = self._stored().get(key)
        if numbers is None:
            numbers = make()
            self._stored().put(key, numbers)
        return numbers

    def keep(self) -> None:
        """Brings to the disk what was found, for the next run."""
        if self._kept is not None:
            self._kept.save()

    def _stored(self) -> Kept:
        if self._kept is None:
            settings = self._tokenizer.backend_tokenizer.to_str() if self._tokenizer.is_fast else ""
            name = _digest(type(self._tokenizer).__name__, len(self._tokenizer), settings)
            # A tokenizer whose settings cannot be told has numbers of its own in each process alone.
            self._kept = Kept(cache_folder() / f"tokens-{name}.json" if settings else None)
        return self._kept


class Growing:
    """The tokens of pieces that are joined one after the other.

    A piece is counted with the one before it, so that what their border adds or takes is in it; what stands further
    back is not read again, for no tokenizer's cut depends on a line that is two lines away."""

    def __init__(self, count_tokens: Callable[[str], int], separator: str):
        self.tokens = 0
        self._count_tokens, self._separator = count_tokens, separator
        self._last: str | None = None

    def with_next(self, piece: str) -> int:
        """How many there are with one more piece."""
        if self._last is None:
            return self._count_tokens(piece)
        both = self._count_tokens(f"{self._last}{self._separator}{piece}")
        return self.tokens + both - self._count_tokens(self._last)

    def add(self, piece: str) -> None:
        self.tokens, self._last = self.with_next(piece), piece


def ends_by_words(text: str, count_tokens: Callable[[str], int]) -> array:
    """Where the tokens of any counter may end: those of each word, and of the space before it, spread over it."""
    ends = array("q")
    for found in _WORD_AFTER_SPACE.finditer(text):
        if not found.group().strip():
            continue
        tokens, start, size = count_tokens(found.group()), found.start(), found.end() - found.start()
        ends.extend(start + -(-size * number // tokens) for number in range(1, tokens + 1))
    return ends


def _slices(text: str) -> Iterator[tuple[int, int]]:
    """The text in stretches that end before white space, where there is some."""
    start = 0
    while len(text) - start > _SLICE_CHARACTERS:
        end = start + _SLICE_CHARACTERS
        border = max(text.rfind(sign, start + _SLICE_CHARACTERS // 2, end) for sign in "\n ")
        end = border if border > 0 else end
        yield start, end
        start = end
    yield start, len(text)


# --------------------------------------------------------------------------------------------------------------
# What is kept
# --------------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    given = os.environ.get("FINEMEM_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finemem"


class Kept:
    """Lists of numbers by a digest of what they are of, in a file. A file that is damaged, cannot be read or cannot be
    written costs the time to find them again and nothing else. path None: they are not kept."""

    def __init__(self, path: Path | None):
        self._path = path
        self._numbers = {} if path is None else _read(path)
        self._new: dict[str, list[int]] = {}

    def get(self, key: str) -> list[int] | None:
        return self._numbers.get(key)

    def put(self, key: str, numbers: list[int]) -> None:
        self._numbers[key] = self._new[key] = numbers

    def save(self) -> None:
        if self._path is None or not self._new:
            return
        numbers = _read(self._path) | self._new  # another process may have written meanwhile
        text = json.dumps(numbers, separators=(",", ":"))
        if len(text) > _MOST_KEPT_BYTES:  # what this run found is what the next one needs
            text = json.dumps(self._new, separators=(",", ":"))
        try:
            write_atomically(self._path, f"{_digest(text)}\n{text}")
        except OSError:
            return
        self._new = {}


def _read(path: Path) -> dict[str, list[int]]:
    try:
        digest, _, text = path.read_text(encoding="ascii").partition("\n")
        return json.loads(text) if digest == _digest(text) else {}
    except (OSError, ValueError):
        return {}


def _digest(*what: object) -> str:
    digest = hashlib.sha256()
    for part in what:
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)} ".encode() + data)
    return digest.hexdigest()[:32]
