"""Labels in what a judge said: a word alone, a word in a sentence, or a field of a JSON object, fenced or not.

All of it is linear in the reply, which is untrusted text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from finemem_jax.env.thoughts import without_thoughts
from finemem_jax.types import Messages, Verdict

_WORD = re.compile(r"[^\W\d_]++")
_LONGEST = 1 << 16  # characters of a reply that are read
_MOST_OBJECTS = 20


def messages(instructions: str, **parts: str) -> Messages:
    """A conversation: the instructions, then each part under its name ("gold_answer" -> "Gold answer: …")."""
    user = "\n\n".join(f"{name.replace('_', ' ').capitalize()}: {text}" for name, text in parts.items())
    return ({"role": "system", "content": instructions}, {"role": "user", "content": user})


def listed(texts: Sequence[str]) -> str:
    """One text as it is, several as a list."""
    return texts[0] if len(texts) == 1 else "\n" + "\n".join(f"- {text}" for text in texts)


def said(reply: str | None) -> str:
    """The reply without its thoughts."""
    return without_thoughts((reply or "")[:_LONGEST]).strip()


def word_of(reply: str | None, labels: Sequence[str]) -> str:
    """The label that the reply names, as a whole word, whatever its case; "" where it names none or several."""
    return _only({found.group().casefold() for found in _WORD.finditer(said(reply))}, labels)


def field_of(reply: str | None, name: str, labels: Sequence[str]) -> str:
    """The label in that field of the JSON object in the reply, else the one that the reply names as a word.

    Several objects must agree. An object without the field says nothing, and neither does one with another label."""
    objects = list(_objects(said(reply)))
    if not objects:
        return word_of(reply, labels)
    return _only({_plain(found[name]) for found in objects if name in found}, labels, exact=True)


def number_of(reply: str | None, name: str, allowed: Sequence[float]) -> float | None:
    """The number in that field, as text or as such; or the reply itself, where it is a number and nothing else."""
    objects = list(_objects(said(reply)))
    texts = {_plain(found[name]) for found in objects if name in found} if objects else {said(reply).rstrip(".")}
    try:
        numbers = {float(text) for text in texts if len(text) < 20}
    except ValueError:
        return None
    return numbers.pop() if len(texts) == len(numbers) == 1 and numbers <= set(allowed) else None


def scored(label: str, scores: Mapping[str, float]) -> Verdict:
    return Verdict(scores[label], label) if label else Verdict(None)


def _only(found: set[str], labels: Sequence[str], *, exact: bool = False) -> str:
    named = [label for label in labels if label.casefold() in found]
    return named[0] if len(named) == 1 and not (exact and len(found) > 1) else ""


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value).strip().casefold()


def _objects(text: str) -> Iterator[Mapping[str, object]]:
    """The JSON objects in a text, one behind the other; a brace that begins none costs one of a few attempts."""
    decoder, position = json.JSONDecoder(), text.find("{")
    for _ in range(_MOST_OBJECTS):
        if position < 0:
            return
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            if isinstance(value, dict):
                yield value
        position = text.find("{", end)
