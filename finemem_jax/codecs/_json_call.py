"""A call as one JSON object that names its tool, the part that the formats with JSON calls share."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.env.lenient_json import Malformed, load_object
from finemem_jax.types import Call


def read_call(body: str, *, arguments: Sequence[str], unasked: Sequence[str] = ()) -> Call:
    """The call in {"name": …, "arguments": {…}}, or the call that says why there is none; absent arguments are none.

    arguments: the keys under which they may stand, the format's own first. unasked: keys that may stand beside, and
    are passed over."""
    try:
        value = load_object(body)
    except Malformed as error:
        return Call("", error=str(error))
    name = value.pop("name", None)
    if not isinstance(name, str):
        return Call("", error='no string "name"')
    for key in unasked:
        value.pop(key, None)
    given = value.pop(next((key for key in arguments if key in value), arguments[0]), {})
    if value:
        return Call(name, error=f"unexpected key {next(iter(value))[:64]!r} beside name and {arguments[0]}")
    return Call(name, given)
