"""What a thinking model says outside of its thoughts.

A thought stands between `<think>` and `</think>`. Some chat templates open it in the prompt, so a closing tag without
an opening one ends a thought too; one that was cut off never closes.
"""

from __future__ import annotations

from finemem_jax.env.marks import marks_in

OPEN, CLOSE = "<think>", "</think>"


def without_thoughts(text: str) -> str:
    """`text` without its thoughts, the unfinished one included. Linear in the text."""
    pieces, start, is_open = [], 0, False  # start: where the present thought, or what lies between two, begins
    for position, tag in marks_in(text, (OPEN, CLOSE)):
        if tag == OPEN and not is_open:
            pieces.append(text[start:position])
        if tag == OPEN:
            is_open = True
        else:
            start, is_open = position + len(CLOSE), False
    return "\n".join(pieces if is_open else [*pieces, text[start:]])  # a line ends where a thought begins


def is_thinking(text: str) -> bool:
    """Whether `text` ends inside a thought."""
    return text.rfind(OPEN) > text.rfind(CLOSE)
