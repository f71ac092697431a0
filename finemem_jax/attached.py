"""A run that ends with the process that started it: `python -m finemem_jax.attached FD COMMAND …`.

It is `finemem COMMAND …` otherwise.
FD is the reading end of a pipe whose writing end the starter alone holds. When that closes, however the starter ended
(SIGKILL, out of memory, its terminal closed), the run gets a SIGTERM: it saves its state and ends, as on preemption.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def watch(fd: int) -> None:
    """From now on this process gets a SIGTERM when the other end of the pipe closes."""
    threading.Thread(target=_wait_for_the_end, args=(fd,), name="attached", daemon=True).start()


def _wait_for_the_end(fd: int) -> None:
    while os.read(fd, 1):  # nobody writes: it returns at the end alone
        pass
    print("the process that started this run is gone: the run ends, too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
    from finemem_jax.main import main  # seconds, in which the starter may well end

    sys.exit(main(sys.argv[2:]))
