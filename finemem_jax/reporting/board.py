"""An event file for TensorBoard, written at once and in this thread.

tensorboardX's own writer has a queue and a thread. What is in the queue is lost by a kill, also of steps before the
checkpoint that a run resumes from; and on a full disk the thread dies, the queue fills, and the run waits for ever.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

_EDGES = np.geomspace(1e-12, 1e20, 775)  # of histograms: factors of 1.1
_BINS = np.concatenate([-_EDGES[::-1], [0.0], _EDGES])


class Board:
    """Events of one process, in a file of its own below `folder`. Raises OSError when they cannot be written."""

    def __init__(self, folder: Path, first: int):
        """first: what earlier files hold of this step and later ones is dropped by who reads them; also of step 0, for
        a run that is killed before its first checkpoint has logged steps, too."""
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names, which begin with the second; a run may resume within it.
        self._file = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}.from-{first}")
        self._write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(Event(step=step, summary=summary.scalar(name, value)))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self._write(Event(step=step, summary=summary.histogram(name, values, _BINS)))

    def text(self, name: str, text: str, step: int) -> None:
        self._write(Event(step=step, summary=summary.text(name, text)))

    def flush(self) -> None:
        """Returns when everything is on the disk."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
