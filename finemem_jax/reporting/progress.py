"""The live view of a run: one line with a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from finemem_jax.reporting.untrusted import printable

PLAIN_SECONDS = 10.0  # between two plain lines


class Progress:
    """`with Progress(total, title) as progress: progress.update(step, reward=0.3)`."""

    def __init__(self, total: int, title: str, console: Console | None = None, *, is_muted: bool = False):
        """is_muted: nothing is shown, another process of the run does."""
        self._total, self._title = total, title
        self._is_muted = is_muted
        self._console = console or Console(stderr=True)
        self._printed = 0.0
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._is_muted:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, values="")
        return self

    def update(self, step: int, **values: float | str) -> None:
        """`step` of the total is done."""
        if self._is_muted:
            return
        text = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, values=text)
        elif step >= self._total or time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            print(f"{self._title} {step}/{self._total}  {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line above the bar. It may quote a data set or a model."""
        text = printable(text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self._is_muted:
            print(text, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output; the first column is text, the others are right-aligned."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A cell cut off with "…" says nothing, so the table is as wide as it must be, also beyond the terminal's edge.
    needed = table.__rich_measure__(console, console.options.update(max_width=10_000)).maximum
    Console(width=max(console.width, needed)).print(table, crop=False)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"
