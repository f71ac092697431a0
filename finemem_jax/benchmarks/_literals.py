"""Python literals in the cells of data files: lists, tuples, objects, texts, numbers, True, False, None.

Some data sets were written with `repr`. Such a cell is untrusted text, and nothing of it is evaluated: what is found is
read by a scanner that never recurses, up to a length and a depth. Single quoted texts alone are decoded by
`ast.literal_eval`, one at a time, after the scanner has seen where they end.
"""

from __future__ import annotations

import ast
import re

_LONGEST = 16 << 20  # characters of a cell
_DEEPEST = 50  # lists in lists
_TOKEN = re.compile(
    r"""\s++|[\[\](){},:]|'(?:[^'\\\n]|\\[\s\S])*+'|"(?:[^"\\\n]|\\[\s\S])*+"|[-+]?[0-9.][0-9.eE]*+(?:[-+][0-9]++)?"""
    r"|[A-Za-z]++"
)
_NAMES = {"None": None, "True": True, "False": False, "null": None, "true": True, "false": False}
_CLOSING = {"[": "]", "(": ")", "{": "}"}


class _Open:
    """A list or an object that has not ended yet."""

    def __init__(self, sign: str):
        self.sign = sign
        self.values: list[object] = []
        self.keys: list[object] = []  # of an object: before each of its values
        self.expects = True  # a value may stand here
        self.is_keyed = False  # of an object: the key of the next value was read

    def value(self) -> object:
        if self.sign != "{":
            return list(self.values)
        try:
            return dict(zip(self.keys, self.values, strict=True))
        except (TypeError, ValueError) as error:
            raise ValueError("an object with a key that is none") from error


def parse(text: str) -> object:
    """The value that a text writes down; tuples are lists. Raises ValueError, one line, where it is none."""
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    outer = _Open("")
    stack = [outer]
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"no literal at character {position}")
        token, position = found.group(), found.end()
        if not token.isspace():
            _take(token, stack)
    if len(stack) > 1 or len(outer.values) != 1:
        raise ValueError("no single literal, or one that is cut off")
    return outer.values[0]


def _take(token: str, stack: list[_Open]) -> None:
    here = stack[-1]
    if token in _CLOSING:
        _expect(here)
        if len(stack) > _DEEPEST:
            raise ValueError("nested too deeply")
        stack.append(_Open(token))
    elif token in ")]}":
        if token != _CLOSING.get(here.sign) or here.is_keyed or len(here.keys) != len(here.values) * (here.sign == "{"):
            raise ValueError(f"{token!r} closes nothing")
        stack.pop()
        _put(stack[-1], here.value())
    elif token == ",":
        if here.expects or not here.sign or (here.sign == "{" and len(here.keys) != len(here.values)):
            raise ValueError("a comma behind nothing")
        here.expects = True
    elif token == ":":
        if here.sign != "{" or here.expects or here.is_keyed or len(here.values) != len(here.keys) + 1:
            raise ValueError("a colon behind no key")
        here.keys.append(here.values.pop())
        here.is_keyed = here.expects = True
    else:
        _put(here, _scalar(token))


def _expect(here: _Open) -> None:
    if not here.expects:
        raise ValueError("two values without a comma")


def _put(here: _Open, value: object) -> None:
    _expect(here)
    here.values.append(value)
    here.expects = here.is_keyed = False


def _scalar(token: str) -> object:
    if token in _NAMES:
        return _NAMES[token]
    try:
        if token[0] in "'\"":
            return ast.literal_eval(token)
        return float(token) if set(token) & set(".eE") else int(token)
    except (ValueError, SyntaxError, MemoryError) as error:
        raise ValueError(f"no literal: {token[:40]!r}") from error
