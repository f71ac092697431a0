"""A profile on demand: a trace of `jax.profiler` over some training steps, and a table of their phases.

    finemem train --config.profile.steps=3

writes WORKDIR/profile/ (open it with XProf or TensorBoard's profile plug-in, or drop the .trace.json.gz into Perfetto)
and WORKDIR/profile/phases.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from finemem_jax.config import ProfileConfig
from finemem_jax.files import write_atomically

PHASES = ("rollout", "answer", "reward", "pack", "reference", "update", "log", "evaluate", "checkpoint")


class Profile:
    """Traces the steps from `start` on, inside `with`. While it does, `wait` waits for the device, so that each phase
    is charged with its own time."""

    def __init__(self, cfg: ProfileConfig, workdir: Path, *, is_lead: bool = True):
        """is_lead: whether this process traces; of a run of several, one does."""
        self._cfg, self._folder, self._is_lead = cfg, workdir / "profile", is_lead
        self._is_on = False
        self._seconds: list[dict[str, float]] = []

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if (
            kind is None
        ):  # a run that ends early has its state to save in the grace time; a trace takes seconds to write
            self._finish()

    def begin(self, step: int) -> None:
        """Before a step. A run that resumes after `start` is not profiled again."""
        if self._is_lead and self._cfg.steps and step == self._cfg.start:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True

    def wait(self, *values: object) -> None:
        """Until the device has made `values`."""
        if self._is_on:
            jax.block_until_ready(values)

    def end(self, step: int, seconds: Mapping[str, float]) -> None:
        """After a step that took `seconds` per phase ("seconds/PHASE")."""
        if not self._is_on:
            return
        self._seconds.append(dict(seconds))
        if step + 1 >= self._cfg.start + self._cfg.steps:
            self._finish()

    def _finish(self) -> None:
        """Ends the trace and writes the table; does nothing when no trace is on."""
        if not self._is_on:
            return
        self._is_on = False
        jax.profiler.stop_trace()
        write_atomically(self._folder / "phases.md", phase_table(self._seconds, self._cfg.start))


def phase_table(steps: Sequence[Mapping[str, float]], start: int) -> str:
    """Markdown: seconds of each phase, mean over the profiled steps, largest and share. The phases do not overlap:
    "answer" is the wait for answers after the policy has written everything."""
    names = dict.fromkeys(f"seconds/{phase}" for phase in PHASES) | dict.fromkeys(n for step in steps for n in step)
    whole = sum(sum(step.values()) for step in steps) or 1.0
    lines = [
        f"Steps {start} to {start + len(steps) - 1}.",
        "",
        "| phase | mean s | largest s | share |",
        "|---|---|---|---|",
    ]
    for name in names:
        values = [step.get(name, 0.0) for step in steps] or [0.0]
        mean, share = sum(values) / len(values), sum(values) / whole
        lines.append(f"| {name.removeprefix('seconds/')} | {mean:.3f} | {max(values):.3f} | {share:.1%} |")
    return "\n".join([*lines, ""])
