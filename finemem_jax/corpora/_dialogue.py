"""The wrapper of a chunk: a dated turn of a user who shares something, and the assistant's reply.

Same shape as in the published rows, wordings of our own:

    [Dialogue between User and Assistant on 2024-01-03 00:00]
    <User>Please take note of this.
    …
    <Assistant>Noted.
"""

from __future__ import annotations

import datetime
import random

_OPENERS = (
    "I came across this today, please keep it in mind.",
    "Here is something I have been reading.",
    "Please take note of this.",
    "I would like you to remember the following.",
    "Let me share what I found out.",
    "This may matter later, so here it is.",
    "Some background that I want to have at hand.",
    "Could you keep track of this for me?",
)
_EXAMPLE_OPENERS = (
    "Here are some more examples with their labels.",
    "I sorted these today, please learn from them.",
    "Take these labelled cases as a guide.",
    "This is how I would file the following.",
    "More samples for our classification.",
    "Please remember how these were labelled.",
)
_REPLIES = (
    "Noted.",
    "Thank you, I will keep that in mind.",
    "Understood, I have read it.",
    "Got it, tell me when you need it.",
    "Thanks for sharing, I will remember it.",
    "All right, that is clear.",
    "Good to know.",
)
_FIRST_DAY = datetime.date(2024, 1, 1)


def wrap(text: str, index: int, rng: random.Random, *, labelled: bool = False) -> str:
    """Chunk number `index` as a dialogue on the day 2024-01-01 + `index`."""
    opener = rng.choice(_EXAMPLE_OPENERS if labelled else _OPENERS)
    day = _FIRST_DAY + datetime.timedelta(days=index)
    header = f"[Dialogue between User and Assistant on {day} 00:00]"
    return f"{header}\n<User>{opener}\n{text}\n<Assistant>{rng.choice(_REPLIES)}"
