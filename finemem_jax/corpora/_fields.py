"""Reading the fields of a row: what is wrong is a UserError that names row and field."""

from __future__ import annotations

import contextlib
import itertools
import json
import reprlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from finemem_jax.config import UserError

_T = TypeVar("_T", list, dict)

_LEVELS = 100  # of lists and objects in each other; no format here has a tenth, and recursion would end somewhere


def field(row: Mapping[str, object], name: str, where: str) -> object:
    if row.get(name) is None:
        raise UserError(f"{where}: field {name!r} is missing; fields there: {names(row)}")
    return row[name]


def names(row: Mapping[str, object]) -> str:
    """Its fields, for a message; a row of another format may have thousands, and names that are no texts."""
    return ", ".join(str(name)[:40] for name in itertools.islice(row, 20))


def whole(value: object, level: int = 0) -> object:
    """A value of JSON with every lone surrogate (an escape such as "\\ud83d" without its other half) replaced by
    U+FFFD: such a text has no UTF-8, and tokenizers, hashes and files would fail on it later. Raises ValueError where
    it is nested too deeply."""
    if level > _LEVELS:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole(item, level + 1) for item in value]
    if isinstance(value, dict):
        return {whole(key, level + 1): whole(item, level + 1) for key, item in value.items()}
    return value


def loads(text: str) -> object:
    """The JSON value of a text, `whole`. Raises ValueError."""
    try:
        return whole(json.loads(text))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def text(row: Mapping[str, object], name: str, where: str) -> str:
    """A field that must be a text with something in it."""
    value = field(row, name, where)
    if not isinstance(value, str) or not value.strip():
        raise wrong(where, name, "text", value)
    return value


def decoded(value: object, where: str, name: str, kind: type[_T]) -> _T:
    """`value` as a list or dict, decoded where it is JSON text."""
    if isinstance(value, str):
        try:
            value = loads(value)
        except ValueError as error:
            raise wrong(where, name, f"JSON ({error})", value) from error
    if not isinstance(value, kind):
        raise wrong(where, name, f"a {kind.__name__}", value)
    return value


def listed(row: Mapping[str, object], name: str, where: str) -> list:
    """A field that must be a list, or JSON text of one."""
    return decoded(field(row, name, where), where, name, list)


def mapping(value: object, where: str, name: str) -> Mapping[str, object]:
    """A value that must be an object, or JSON text of one."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = loads(value)
    if not isinstance(value, Mapping):
        raise wrong(where, name, "an object", value)
    return value


def answers(value: object, where: str, name: str) -> tuple[str, ...]:
    """The accepted texts in an answer, at least one."""
    found = tuple(answer_texts(value))
    if not found:
        raise wrong(where, name, "text or a list of texts", value)
    return found


def answer_texts(answer: object) -> Iterator[str]:
    """The accepted texts in an answer: a string, a number, {"text": …}, or a list of these, nested or not."""
    if isinstance(answer, str):
        if answer.strip():
            yield answer
    elif isinstance(answer, int | float) and not isinstance(answer, bool):
        yield str(answer)
    elif isinstance(answer, list):
        for inner in answer:
            yield from answer_texts(inner)
    elif isinstance(answer, Mapping):
        yield from answer_texts(answer.get("text"))


def indices(value: object, chunks: int, where: str, name: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(i) is int and 0 <= i < chunks for i in value):
        raise wrong(where, name, f"chunk indices from 0 to {chunks - 1}", value)
    return tuple(value)


def wrong(where: str, name: str, want: str, got: object) -> UserError:
    shown = got if isinstance(got, str) else reprlib.repr(got)
    return UserError(f"{where}: field {name!r} must be {want}, got {shown[:80]!r}")
