"""Ctrl-C while a command is still being imported.

That takes seconds, in which somebody may well see a typing error. Nothing has begun by then, so the process ends at
once, in one line. An exception would come out somewhere inside of another package, which may answer it with a traceback
or a crash. This module and `__main__` import nothing that takes time.
"""

from __future__ import annotations

import os
import signal
import threading

from finemem_jax import exits


def end_at_once() -> None:
    """From now on Ctrl-C ends the process, until `end_as_usual`."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _end)


def end_as_usual() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os.write(2, b"finemem: interrupted before anything had begun\n")
    os._exit(exits.INTERRUPTED)
