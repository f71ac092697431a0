"""JSON as models write it: strict first, then a reading that forgives slips of notation but never guesses at content.

| written                                                     | read as                                             |
|-------------------------------------------------------------|-----------------------------------------------------|
| code fence around the JSON, raw newlines in a string        | as if written properly                              |
| trailing comma, single quotes, bare keys, comments          | likewise                                            |
| cut off: unclosed string, missing brace                     | malformed: half a sentence must not be stored       |
| text or further values after the value                      | malformed: one of the two would be dropped silently |
| `"a" + "b"`, bare quotes inside a string, a missing comma   | malformed: what was meant is a guess                |
| a key that is given twice, a depth beyond 8 that is no JSON | malformed                                           |

Every character is looked at a bounded number of times, whatever the text.
"""

from __future__ import annotations

import json
from typing import NamedTuple, NoReturn

_DEPTH = 8  # of what is not strict JSON; a call has 2
_BLANK = " \t\n\r"
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = {"true": True, "false": False, "null": None}
_HEX = frozenset("0123456789abcdefABCDEF")


class Malformed(Exception):
    """Why a text is no JSON value."""


def load(text: str) -> object:
    """The JSON value that `text` holds and nothing else. Raises Malformed."""
    text = _unfenced(text.strip())
    try:
        # Not strict about raw newlines inside strings, which models write often and which lose nothing.
        return _STRICT.decode(text)
    except (ValueError, RecursionError):
        return _Reader(text).read()


def load_object(text: str) -> dict[str, object]:
    """The same for an object."""
    text = _unfenced(text.strip())
    if not text.startswith(("{", "[")):
        raise Malformed("not a JSON object")
    value = load(text)
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def load_entries(text: str) -> tuple[list[object], int]:
    """The entries of the first list in any text that can be read, and how many cannot; that the list has no end counts
    as one of these. Never raises."""
    found, _, is_closed = read_entries(text, text.find("[") + 1 or len(text))
    readable = [entry for entry in found if not isinstance(entry, Malformed)]
    is_cut = bool(found) and not is_closed and readable[-1:] == found[-1:]
    return readable, len(found) - len(readable) + is_cut


class Entries(NamedTuple):
    found: list[object]  # in order; in the place of one that cannot be read, the Malformed that says why
    end: int  # where the text goes on behind them
    is_closed: bool  # the list's bracket stands there


def read_entries(text: str, start: int) -> Entries:
    """The entries of the list whose bracket stands before `start`. Never raises."""
    return _Reader(text, start).read_entries()


def read_value(text: str, start: int) -> tuple[object, int]:
    """The value at `start`, or the Malformed that says why there is none, and where the text goes on behind what was
    read. Never raises."""
    reader = _Reader(text, start)
    try:
        return reader.read_next(), reader.position
    except Malformed as error:
        return error.with_traceback(None), max(reader.position, start + 1)


def _unfenced(text: str) -> str:
    """What stands inside a code fence, where `text` is one: "```json", a line break, the text, "```"."""
    if not text.startswith("```"):
        return text
    head, line_break, rest = text[3:].partition("\n")
    if not line_break or not rest.endswith("```") or len(head.split()) > 1:
        raise Malformed("code fence not closed around the call")
    return rest[:-3].strip()


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Malformed("a key is given twice")
    return value


_STRICT = json.JSONDecoder(strict=False, object_pairs_hook=_unique_keys)


def _is_half(code: str, second: str) -> bool:
    """Whether four digits are half of a surrogate pair: D, one of `second`, and two more."""
    return len(code) == 4 and code[0] in "dD" and code[1] in second and _HEX.issuperset(code)


class _Reader:
    """Reads one value from left to right, and never goes back."""

    def __init__(self, text: str, start: int = 0):
        self._text, self._at = text, start

    @property
    def position(self) -> int:
        return self._at

    def read_next(self) -> object:
        return self._value(0)

    def read(self) -> object:
        value = self._value(0)
        if self._next():
            raise Malformed("text after the JSON object")
        return value

    def read_entries(self) -> Entries:
        entries: list[object] = []
        while (first := self._next()) and first != "]":
            try:
                entries.append(self._value(1))
                if not self._next():
                    break
                self._end_of_entry("]")
            except Malformed as error:  # the next object may be whole
                entries.append(error.with_traceback(None))  # thousands of them would keep all their frames
                following = self._text.find("{", self._at + 1)
                self._at = len(self._text) if following < 0 else following
        is_closed = self._next() == "]"
        return Entries(entries, self._at + is_closed, is_closed)

    def _value(self, depth: int) -> object:
        first = self._next()
        if first and first in "{[":
            if depth == _DEPTH:
                raise Malformed("not valid JSON")
            self._at += 1
            return self._object(depth + 1) if first == "{" else self._list(depth + 1)
        if first and first in "\"'":
            return self._string(first)
        word = self._word()
        if word in _LITERALS:
            return _LITERALS[word]
        try:
            return json.loads(word)  # a number
        except ValueError:
            self._fail()

    def _object(self, depth: int) -> dict[str, object]:
        pairs = []
        while (first := self._next()) != "}":
            is_quoted = first and first in "\"'"
            key = self._string(first) if is_quoted else self._word()
            if not (key or is_quoted) or self._next() != ":":
                self._fail()
            self._at += 1
            pairs.append((key, self._value(depth)))
            self._end_of_entry("}")
        self._at += 1
        return _unique_keys(pairs)

    def _list(self, depth: int) -> list[object]:
        values = []
        while self._next() != "]":
            values.append(self._value(depth))
            self._end_of_entry("]")
        self._at += 1
        return values

    def _end_of_entry(self, closing: str) -> None:
        """Past the comma behind an entry, which the last one may lack."""
        after = self._next()
        if after == ",":
            self._at += 1
        elif after != closing:
            self._fail()

    def _string(self, quote: str) -> str:
        start = self._at + 1
        pieces: list[str] = []
        position = start
        while position < len(self._text):
            character = self._text[position]
            if character == quote:
                self._at = position + 1
                return "".join([*pieces, self._text[start:position]])
            if character != "\\":
                position += 1
                continue
            pieces.append(self._text[start:position])
            self._at = position  # of the failure, if it is one
            piece, start = self._escape(position + 1)
            pieces.append(piece)
            position = start
        self._at = len(self._text)
        raise Malformed("cut off inside a string")

    def _escape(self, position: int) -> tuple[str, int]:
        """The character that an escape stands for, and where the text goes on behind it."""
        follower = self._text[position : position + 1]
        if follower == "u":
            code = self._text[position + 1 : position + 5]
            if len(code) < 4 or not all(digit in _HEX for digit in code):
                self._fail()
            low = self._text[position + 5 : position + 11]
            if _is_half(code, "89abAB") and low[:2] == "\\u" and _is_half(low[2:], "cdefCDEF"):
                halves = bytes.fromhex(code + low[2:])
                return halves.decode("utf-16-be"), position + 11
            return chr(int(code, 16)), position + 5
        if follower in _ESCAPES:
            return _ESCAPES[follower], position + 1
        if not follower or follower not in "\"'\\/":
            self._fail()
        return follower, position + 1

    def _word(self) -> str:
        """A bare key, a literal or a number: up to the next sign."""
        start = position = self._at
        while position < len(self._text) and (self._text[position].isalnum() or self._text[position] in "_+-.$"):
            position += 1
        self._at = position
        return self._text[start:position]

    def _next(self) -> str:
        """The next character that is neither blank nor part of a comment; "" at the end."""
        text = self._text
        while self._at < len(text):
            if text[self._at] in _BLANK:
                self._at += 1
            elif text.startswith("//", self._at) or text[self._at] == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif text.startswith("/*", self._at):
                end = text.find("*/", self._at + 2)
                self._at = len(text) if end < 0 else end + 2
            else:
                return text[self._at]
        return ""

    def _fail(self) -> NoReturn:
        if not self._next():
            raise Malformed("cut off: a brace is not closed")
        raise Malformed("not valid JSON, and a repair would change the text")
