"""What a person sees: the live view of a run (a few lines that stay in place on a terminal; plain lines elsewhere and
under CI), tables, and single lines.

All that is said may quote a data set, a model, a server or a file name, so all of it goes through `printable`: `tell`
and `print_table` are the only ways to standard output and error. In JSON and HTML such text is data already: their
writers escape it.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from finemem_jax.exits import shortened

LONGEST_LINE = 4_000

# C0 and C1 controls (ANSI escapes start with one), line and paragraph separators, marks that turn the direction of
# text around, and lone surrogates. A tab and a new line may stay.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

PLAIN_SECONDS = 10.0  # between two plain lines

# jax tells at DEBUG level what it begins and ends to compile. Only programs of ours are named; it compiles dozens of
# single operations besides.
_COMPILER = ("jax._src.interpreters.pxla", "jax._src.dispatch")
_BEGIN = re.compile(r"^Compiling (?:jit\()?(?P<name>\w+)\)? with")
_END = re.compile(r"^Finished XLA compilation of (?:jit\()?(?P<name>\w+)\)? in (?P<seconds>[\d.]+) sec")
PROGRAMS = {
    "prefill": "prefill of the sampler",
    "decode": "decoding of the sampler",
    "step": "the update",
    "fill_logprobs": "log-probabilities of the reference",
}


def printable(text: str, *, one_line: bool = False, longest: int = LONGEST_LINE) -> str:
    """The text with what could steer a terminal written out ("\\x1b[31m"), and its middle left out when it is long."""
    text = shortened(text, longest)
    text = _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)
    return text.replace("\n", "\\n") if one_line else text


def tell(text: object, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Prints a text, each line of it fit for a terminal. file: standard output when None, as with `print`."""
    print("\n".join(map(printable, str(text).split("\n"))), file=file, flush=flush)


class Progress:
    """`with Progress(total, title) as progress: progress.update(step, reward=0.3)`.

    On a terminal: a bar with the time left, below it the values of the last step, and what is being done or compiled.
    """

    def __init__(
        self,
        total: int,
        title: str,
        console: Console | None = None,
        *,
        is_muted: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        """is_muted: nothing is shown, another process of the run does. clock: in seconds."""
        self._total, self._title = total, title
        self._is_muted = is_muted
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._printed = -math.inf
        self._live: Live | None = None
        self._first: int | None = None  # the step at the first update: a resumed run does not begin at 0
        self._values = Text("")
        self._doing = ""
        self._compiling = _Compiling(self)

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not os.environ.get("CI") and not self._is_muted:
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._task = self._bar.add_task(self._title, total=self._total)
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start()
        self._compiling.start()
        return self

    def update(self, step: int, **values: float | str) -> None:
        """`step` of the total is done."""
        if self._is_muted:
            return
        words = [f"{name} {_short(value)}" for name, value in values.items()]
        if self._first is None:
            self._first = step
        if self._live is not None:
            self._bar.update(self._task, completed=step)
            self._values = Text(printable("  ".join(words), one_line=True))
        elif step >= self._total or self._clock() - self._printed > PLAIN_SECONDS:
            self._printed = self._clock()
            tell(
                f"{self._title} {step}/{self._total}  {'  '.join([*words, self._left(step)])}",
                file=sys.stderr,
                flush=True,
            )

    def doing(self, what: str) -> None:
        """What goes on now; shown on a terminal only."""
        self._doing = what

    def say(self, text: str) -> None:
        """A line of its own, above the view. It may quote a data set or a model."""
        if self._live is not None:
            self._live.console.print(printable(text), markup=False, highlight=False)
        elif not self._is_muted:
            tell(text, file=sys.stderr, flush=True)

    def _left(self, step: int) -> str:
        """Time left at the pace since the first update, "" before there is one."""
        if self._first is None or step <= self._first:
            self._since = self._clock()
            return ""
        seconds = (self._clock() - self._since) / (step - self._first) * (self._total - step)
        return f"left {int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _render(self) -> RenderableType:
        lines: list[RenderableType] = [self._bar.get_renderable()]
        if self._values.plain:
            lines.append(self._values)
        doing = f"compiling {self._compiling.now}" if self._compiling.now else self._doing
        return Group(*lines, Text(doing, style="dim"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._compiling.stop()
        if self._live is not None:
            self._doing = ""
            self._live.stop()
            self._live = None


class _Compiling(logging.Filter):
    """Listens to jax's compiler and lets nothing through that would not have been shown anyway."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.now = ""  # what is being compiled
        self._progress = progress
        self._levels: dict[str, int] = {}
        self._said: set[str] = set()

    def start(self) -> None:
        for name in _COMPILER:
            logger = logging.getLogger(name)
            self._levels[name] = logger.level
            logger.setLevel(logging.DEBUG)
            logger.addFilter(self)

    def stop(self) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).removeFilter(self)
            logging.getLogger(name).setLevel(level)
        self._levels, self.now = {}, ""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (begin := _BEGIN.match(text)) and begin["name"] in PROGRAMS:
            self.now = PROGRAMS[begin["name"]]
            if self._progress._live is None and self.now not in self._said:
                self._said.add(self.now)  # once: it is compiled again for other shapes
                self._progress.say(f"compiling {self.now}")
        elif (end := _END.match(text)) and end["name"] in PROGRAMS:
            self.now = ""
        return record.levelno >= logging.WARNING


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; the first column is text, the others are right-aligned."""
    table = Table(title=_cell(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(_cell(column), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row))
    console = Console()
    # A cell cut off with "…" says nothing, so the table is as wide as it must be, also beyond the terminal's edge.
    needed = table.__rich_measure__(console, console.options.update(max_width=10_000)).maximum
    Console(width=max(console.width, needed)).print(table, crop=False)


def _cell(text: str) -> Text:
    """Names of data sources stand here: "[red]" is no markup, and an escape is written out."""
    return Text(printable(text, one_line=True))


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if isinstance(value, float) else str(value)
