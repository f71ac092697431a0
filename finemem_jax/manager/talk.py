"""`finemem chat`: one talks, and sees what is recalled and what is written.

Every line is first a question to memory, then something to read. Lines that begin with / are commands (`/help`).
What a model or a user wrote goes to the terminal through `console.tell` alone.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
from collections.abc import Callable, Iterator

from finemem_jax.config import UserError
from finemem_jax.console import printable, tell
from finemem_jax.manager.verbs import Change, Manager, Recalled
from finemem_jax.types import AnswererDown

HELP = """\
a line            is read into memory; what memory holds on it is shown first
/recall QUESTION  what memory holds on it
/answer QUESTION  an answer from memory alone
/items            all that memory holds
/history [ID]     every change, or those of an item
/forget ID        removes an item
/user NAME        from now on the memory of somebody else
/quit             ends, as Ctrl-D does"""


def chat(manager: Manager, user: str, lines: Iterator[str] | None = None) -> None:
    """Talks until there is no more line. lines: what is typed; None = the terminal."""
    threading.Thread(target=_warm_up, args=(manager,), daemon=True).start()  # seconds, in which one types
    talk = _Talk(manager, user)
    if lines is None:
        tell(f"memory of {user}; /help says what there is", file=sys.stderr)
        lines = _typed(lambda: talk.user)
    for line in lines:
        if line.strip() and not talk.take(line.strip()):
            return


def _warm_up(manager: Manager) -> None:
    with contextlib.suppress(Exception):  # whatever it is, the first line that is read says it
        manager.warm_up()


def _typed(user: Callable[[], str]) -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  editing and history of lines
    with contextlib.suppress(EOFError):
        while True:
            prompt = f"{printable(user(), one_line=True)}> " if sys.stdin.isatty() else ""
            yield input(prompt)


class _Talk:
    def __init__(self, manager: Manager, user: str):
        self.manager, self.user = manager, user

    def take(self, line: str) -> bool:
        """Does what the line says; False where that is to end. A mistake is a line, and the talk goes on."""
        word, _, rest = line.partition(" ")
        try:
            if not line.startswith("/"):
                self._say(line)
            elif word == "/quit":
                return False
            else:
                self._obey(word, rest.strip())
        except (UserError, AnswererDown) as error:
            tell(f"! {printable(str(error), one_line=True)}")
        return True

    def _say(self, line: str) -> None:
        for item in self.manager.recall(line, user=self.user):
            tell(_shown(item, "<"))
        now = datetime.datetime.now().isoformat(sep=" ", timespec="minutes")
        written = self.manager.read([{"role": "user", "content": line}], time=now, source="chat", user=self.user)
        told = [change for change in written.changes if change.verb not in ("read", "skip")]
        for change in told:
            tell(_told(change))
        if not told:
            tell("  nothing was written")

    def _obey(self, word: str, rest: str) -> None:
        if word == "/recall":
            self._list(self.manager.recall(rest, user=self.user))
        elif word == "/answer":
            answered = self.manager.answer(rest, user=self.user)
            self._list(answered.items)
            tell(f"= {answered.text or '(no answer)'}")
        elif word == "/items":
            self._list(self.manager.items(user=self.user))
        elif word == "/history":
            for change in self.manager.history(rest, user=self.user):
                tell(f"{change.time} {_told(change)}")
        elif word == "/forget":
            gone = self.manager.forget(rest, user=self.user)
            tell(f"  forgotten: {', '.join(gone) or 'nothing, there is no such item'}")
        elif word == "/user":
            self.user = rest or self.user
        elif word == "/help":
            tell(HELP)
        else:
            raise UserError(f"no command {word}: /help says what there is")

    def _list(self, items: tuple[Recalled, ...]) -> None:
        for item in items:
            tell(_shown(item, "<"))
        if not items:
            tell("  nothing is known")


def _shown(item: Recalled, sign: str) -> str:
    return printable(f"{sign} {item.id} {item.text}", one_line=True)


def _told(change: Change) -> str:
    if change.is_applied:
        return printable(f"> {change.verb} {change.id} {change.text or ''}".rstrip(), one_line=True)
    return printable(f"> {change.verb}: {change.status}" if change.verb != "read" else f"  read: {change.text}",
                     one_line=True)  # fmt: skip
