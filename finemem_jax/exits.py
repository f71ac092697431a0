"""How a command ends: its exit codes, and the exception that carries one out of a run.

`launch/tpu_run.sh` starts a run again on the codes of RESTARTABLE and on no other.
"""

from __future__ import annotations

DONE = 0
CRASHED = 1  # a traceback: a defect of ours
USER_ERROR = 2  # one line on stderr says what to change; a restart would end the same way
STOPPED = 3  # an alarm or a part that failed for too long; the state is saved, somebody should look
DOES_NOT_FIT = 4  # `finemem plan`: what was planned needs more memory than the machine has
RUN_FAILED = 5  # `finemem sweep`: a run of it failed; the others were run and compared all the same
PREEMPTED = 75  # SIGTERM or a preemption notice; the state is saved, start again (EX_TEMPFAIL)
LOST_PEER = 76  # another process of the run is gone; start all of them again
INTERRUPTED = 130  # Ctrl-C; the state is saved

RESTARTABLE = (PREEMPTED, LOST_PEER)


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints its one line and exits with code USER_ERROR. The middle
    of a long message is left out: what was given stands there, maybe a whole file, and what is wrong around it."""

    def __init__(self, message: object = ""):
        super().__init__(shortened(str(message)))


def shortened(text: str, longest: int = 1_500) -> str:
    """The text with its middle left out, and how much that was, where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"


class RunEnded(Exception):
    """A run ended before its last step, on purpose. The command line prints its one line and exits with `code`."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def missing(package: str) -> str:
    """What is said where a package is not there: the install for agents has those of training left out."""
    return f"needs the package {package}, which is not installed here: pip install finemem_jax has all of training's"
