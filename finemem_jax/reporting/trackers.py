"""TensorBoard and Weights & Biases: the same metrics under the same names, with histograms and sample texts.

The names are those of metrics.jsonl and timings.jsonl (docs/metrics.md); an evaluation's are "eval/POLICY/METRIC". The
event files are a view: what counts is in the JSON lines beside them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finemem_jax.config import LoggingConfig, UserError
from finemem_jax.console import tell
from finemem_jax.evaluation.records import Evaluation
from finemem_jax.types import WRITE, Rollout

if TYPE_CHECKING:
    from finemem_jax.reporting.board import Board


class Trackers:
    """Writers of a run; none of them when the config asks for none, or in a process that is not the lead."""

    def __init__(self, cfg: LoggingConfig, workdir: Path, *, name: str, config: Mapping, first: int, is_lead: bool):
        """first: the step the run goes on from; what an earlier process logged of it and later steps is dropped."""
        self._cfg, self._folder = cfg, workdir / "tensorboard"
        self._board: Board | None = None
        self._wandb: Any = None
        self._has_failed = False
        self._has_board = is_lead and cfg.tensorboard
        if not is_lead:
            return
        self._on_board(first, lambda board: board.flush())
        if cfg.wandb:
            self._wandb = _start_wandb(cfg.wandb_project, workdir, name, config)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}

        def show(board: Board) -> None:
            for name, value in numbers.items():
                board.scalar(name, value, step)
            board.flush()

        self._on_board(step, show)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def evaluations(self, step: int, found: Mapping[str, Evaluation]) -> None:
        """found: by the policy's name."""
        for policy, evaluation in found.items():
            prefix = f"eval/{policy.replace('=', '_')}"  # TensorBoard knows no "=" in names
            self.scalars(step, {f"{prefix}/{name}": value for name, value in evaluation.metrics.items()})

    def rollouts(
        self,
        step: int,
        groups: Sequence[Sequence[Rollout]],
        terms: Mapping[str, np.ndarray],
        advantages: np.ndarray,
    ) -> None:
        """Every `sample_every` steps: histograms over the step's rollouts and the text of the first one.

        terms, advantages: [turns], NaN where missing."""
        if (not self._has_board and self._wandb is None) or step % self._cfg.sample_every:
            return
        rollouts = [rollout for group in groups for rollout in group]
        histograms = {f"reward/{name}": term for name, term in terms.items()} | {
            "advantage": advantages,
            "memory_tokens": np.array([rollout.memory.tokens() for rollout in rollouts if rollout.memory is not None]),
            "completion_tokens": np.array([len(step.completion.tokens) for r in rollouts for step in r.steps]),
        }
        finite = {f"histogram/{name}": values[np.isfinite(values)] for name, values in histograms.items()}
        finite = {name: values for name, values in finite.items() if values.size}
        text = sample_text(rollouts[0])

        def show(board: Board) -> None:
            for name, values in finite.items():
                board.histogram(name, values, step)
            # An indented block: TensorBoard reads markdown, and what a model wrote is no markup.
            board.text("sample", "\n".join(f"    {line}" for line in text.splitlines()), step)

        self._on_board(step, show)
        if self._wandb is not None:
            import wandb

            shown = {name: wandb.Histogram(values.tolist()) for name, values in finite.items()}
            self._wandb.log({**shown, "sample": wandb.Table(columns=["text"], data=[[text]])}, step=step)

    def _on_board(self, step: int, show: Callable[[Board], None]) -> None:
        """Nothing depends on the event files: when they cannot be written (a full disk) the run goes on, and the next
        step tries again, in a new file, for the old one may end within an event."""
        if not self._has_board:
            return
        from finemem_jax.reporting.board import Board  # tensorboardX takes a second

        try:
            self._board = self._board or Board(self._folder, step)
            show(self._board)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                what = f"WARNING: {self._folder} cannot be written ({error.strerror}): the run goes on without it"
                tell(what, file=sys.stderr, flush=True)
            self._board, self._has_failed = None, True


def sample_text(rollout: Rollout) -> str:
    """What one rollout read, wrote and answered."""
    lines = [f"episode {rollout.episode.id}, sample {rollout.sample}"]
    for turn in rollout.steps:
        if turn.role == WRITE and turn.chunk is not None:
            lines += [f"--- chunk {turn.chunk}", rollout.episode.chunks[turn.chunk].text]
        lines += [f"--- turn {turn.index}: {turn.role}", turn.text]
    lines.append("--- final questions")
    lines += [f"{a.score}  {a.question.text}  ->  {a.text}" for a in rollout.final_answers]
    return "\n".join(lines)


def _start_wandb(project: str, workdir: Path, name: str, config: Mapping) -> Any:
    """A run of Weights & Biases, its files in WORKDIR/wandb. Raises UserError when it is not installed or refuses."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError("config.logging.wandb=true needs Weights & Biases: pip install 'finemem_jax[wandb]'")
    import wandb

    try:
        return wandb.init(
            project=project, name=name, id=_run_id(workdir), resume="allow", dir=workdir, config=dict(config)
        )
    except wandb.Error as error:  # no key, no such project, no network
        raise UserError(
            f"config.logging.wandb=true: {error} (WANDB_MODE=offline keeps the run in {workdir / 'wandb'})"
        ) from error


def _run_id(workdir: Path) -> str:
    """The same for the same folder, so that a resumed run goes on in the same place."""
    return "".join(c if c.isalnum() else "-" for c in str(workdir.resolve())).strip("-")[-60:]
