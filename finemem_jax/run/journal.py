"""What a run writes while it goes on: its logs and its checkpoints, in step with each other.

A checkpoint is written only when every line before it is on the disk, so a run that resumes from it leaves no gap;
lines after it are dropped at the resume and written again, so there is no duplicate. A full disk is reported, and the
run goes on or ends by `config.guards.disk_full`: lines are kept and written later, checkpoints are tried again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finemem_jax import config, exits
from finemem_jax.config import Config, UserError
from finemem_jax.console import tell
from finemem_jax.evaluation.paired import HELDOUT_SCORES
from finemem_jax.evaluation.records import Decode, Evaluation, episode_scores, write_heldout
from finemem_jax.exits import RunEnded
from finemem_jax.files import Expected, JsonLines, has_step, holds_numbers, is_evaluation, read_lines
from finemem_jax.hosts import agreement
from finemem_jax.rl.train_state import TrainState
from finemem_jax.run.guards import Alarm, Guards
from finemem_jax.run.workdir import code_version
from finemem_jax.weights.checkpoints import Checkpoints, SaveFailed, reason

CHECKPOINTS = "checkpoints"
EVALUATIONS = "evaluations.jsonl"


class Journal:
    """The files of the run in `workdir`, opened by `resume`."""

    def __init__(self, cfg: Config, workdir: Path, *, metrics: str = "metrics.jsonl"):
        """metrics: name of the file that has a line for every step."""
        self._cfg, self._workdir, self._metrics_name = cfg, workdir, metrics
        self.checkpoints = Checkpoints(
            workdir / CHECKPOINTS,
            keep=cfg.train.keep_checkpoints,
            keep_best=cfg.train.keep_best,
            scores=agreement.from_lead(scores(workdir)),
        )
        self.guards = Guards(cfg.guards)
        self.episodes_drawn = 0  # position in the stream of training episodes
        self.spent: dict[str, int] = {}  # of what has a budget, so far: tokens, answers
        self.marks: dict[str, int] = {}  # budget_until all: steps done when a budget was spent, by its name
        self.numbers: dict[str, Any] = {}  # state of the random numbers that examples are drawn with; JSON-able
        self._saved: int | None = None  # step of the last checkpoint begun
        self._is_behind = False  # a checkpoint failed: the next step tries again

    def resume(self, state: TrainState) -> tuple[TrainState, int]:
        """The state and the step to go on from: those of the newest checkpoint, or `state` and 0. Logs keep what
        came before that step."""
        first = 0
        if self.checkpoints.latest() is not None:
            state, note = self.checkpoints.restore(state)
            first, self.episodes_drawn = note["next_step"], note["stream"]["episodes_drawn"]
            self.numbers = note["stream"].get("numbers", {})
            self.spent = note["stream"].get("spent", {})
            self.marks = note["stream"].get("marks", {})
            self.guards = Guards(self._cfg.guards, note["guards"])
            if note["code"] != code_version():
                say(f"warning: the checkpoint is from code {note['code']}, this is {code_version()}")
            self._saved = first
        is_muted = not agreement.is_lead()

        def opened(name: str, keep_below: int, expected: Expected) -> JsonLines:
            return JsonLines(self._workdir / name, keep_below=keep_below, is_muted=is_muted, expected=expected)

        self.metrics = opened(self._metrics_name, first, holds_numbers)
        self.timings = opened("timings.jsonl", first, holds_numbers)
        self.rollouts = opened("rollouts.jsonl", first, has_step)
        self.alarms = opened("alarms.jsonl", first, has_step)
        # The evaluation at a step is of the state before it. It stands when all of it was written; that of the last
        # step is always made anew, for the report needs more than its numbers.
        is_last = first >= self._cfg.train.steps or self.is_spent()
        is_evaluated = first > 0 and not is_last and agreement.from_lead(self._is_evaluated(first))
        self._evaluated = first if is_evaluated else first - 1
        self.evaluations = opened(EVALUATIONS, self._evaluated + 1, is_evaluation)
        self.heldout_scores = opened(HELDOUT_SCORES, self._evaluated + 1, has_step)
        lost = first - len({line["step"] for line in _lines(self.metrics.path, holds_numbers)})
        if lost and agreement.is_lead():  # the others may read the file while it is rewritten
            say(f"WARNING: {self.metrics.path} lacks {lost} of the {first} steps before the checkpoint")
        return state, first

    def is_spent(self) -> bool:
        """Whether the run has used up what it may spend."""
        return self._share_spent() >= 1

    def spend(self, done: int, **counts: int) -> None:
        """Counts what a step, the last of `done`, has used of what has a budget."""
        self.spent = {what: self.spent.get(what, 0) + count for what, count in counts.items()}
        if self._cfg.train.budget_until == "all":
            reached = [what for what, share in self._shares_spent().items() if share >= 1]
            self.marks |= {what: done for what in reached if what not in self.marks}

    def share_done(self, step: int) -> float:
        """How much of the run lies before `step`, by its steps or by what it may spend, whichever is more."""
        return max(step / max(self._cfg.train.steps, 1), self._share_spent())

    def _share_spent(self) -> float:
        most = max if self._cfg.train.budget_until == "first" else min
        return most(self._shares_spent().values(), default=0.0)

    def _shares_spent(self) -> dict[str, float]:
        bounds = {"tokens": self._cfg.train.budget_tokens, "answers": self._cfg.train.budget_answers}
        return {what: self.spent.get(what, 0) / bound for what, bound in bounds.items() if bound}

    def needs_evaluation(self, step: int) -> bool:
        """Whether the state before `step` shall be evaluated, and was not yet."""
        every = self._cfg.train.eval_every
        is_due = step == 0 or bool(every and step % every == 0) or step in self.marks.values()
        return is_due and step > self._evaluated

    def write(self, log: JsonLines, step: int, values: Mapping[str, object]) -> None:
        self.attempt(f"a line of {log.path.name}", log.write, step, values)

    def write_rollouts(self, step: int, records: Iterable[Mapping[str, object]]) -> None:
        """Those that fit in what config.train.log_rollouts_mb gives rollouts.jsonl up to this step: an equal part to
        every step, what one leaves to those after it."""
        share = (step + 1) / max(self._cfg.train.steps, 1)
        for record in records:
            most = int(self._cfg.train.log_rollouts_mb * 1e6 * share)
            self.attempt(f"a line of {self.rollouts.path.name}", self.rollouts.write, step, record, most)

    def write_evaluation(
        self, step: int, when: str, found: Mapping[str, Evaluation], decode: Decode | None = None
    ) -> None:
        """found: by name, the policies, evaluated in the state before `step`, or the baselines (`when` "baseline"),
        which no step changes: only what they wrote is kept. when: see `evaluation/records.py`, heldout/. decode: of the
        prompts that are kept there."""
        if found and when != "baseline":
            for name, evaluation in found.items():
                self.write(self.evaluations, step, {"policy": name, **evaluation.metrics})
                self.write(self.heldout_scores, step, {"policy": name, **episode_scores(evaluation.records)})
            score = _score(evaluation.metrics for evaluation in found.values())
            if score is not None:
                self.checkpoints.score(step, score)
        if agreement.is_lead():
            rollouts = {name: evaluation.rollouts for name, evaluation in found.items()}
            limit = self._cfg.eval.log_rollouts
            self.attempt("heldout/", write_heldout, self._workdir, when, rollouts, limit, decode)

    def check(self, step: int, line: Mapping[str, float], skipped: Sequence[bool]) -> list[Alarm]:
        """The alarms that sound after a step (see `Guards.check`), printed and recorded."""
        alarms = self.guards.check(line, skipped)
        for alarm in alarms:
            say(f"step {step}: {alarm}")
            self.write(self.alarms, step, alarm.record())
        return alarms

    def needs_checkpoint(self, done: int) -> bool:
        """Whether a checkpoint is due after `done` steps."""
        if self.checkpoints.is_idle() and not self.attempt("a checkpoint", self.checkpoints.wait):
            self._is_behind = True
        is_due = done % self._cfg.train.checkpoint_every == 0 or done == self._cfg.train.steps
        return is_due or agreement.any_process(self._is_behind)

    def save(self, done: int, state: TrainState) -> None:
        """Starts to save the state after `done` steps, unless it is saved already."""
        if agreement.all_processes(self._saved == done):
            return
        note = {
            "next_step": done,
            "rng": {"seed": self._cfg.seed, "step": done},  # of every key the first words; see `collect`
            "stream": {
                "episodes_drawn": self.episodes_drawn,
                "numbers": self.numbers,
                "spent": self.spent,
                "marks": self.marks,
            },
            "guards": self.guards.state(),
            "config": config.to_dict(self._cfg),
            "code": code_version(),
        }
        logs = (self.metrics, self.timings, self.evaluations, self.heldout_scores, self.alarms, self.rollouts)
        # All save, or none: a checkpoint of several processes waits for each of them.
        is_logged = all([self.attempt(f"lines of {log.path.name}", log.flush) for log in logs])
        is_logged = agreement.all_processes(is_logged)
        self.attempt("a checkpoint", self.checkpoints.wait)
        is_saved = is_logged and self.attempt("a checkpoint", self.checkpoints.save, done, state, note)
        is_saved = agreement.all_processes(is_saved)
        self._saved, self._is_behind = (done, False) if is_saved else (self._saved, True)

    def finish(self, done: int, state: TrainState) -> bool:
        """Saves the state after `done` steps and waits for it; whether it is on the disk."""
        try:
            self.save(done, state)
            if self.attempt("a checkpoint", self.checkpoints.wait) and self._saved == done:
                return True
        except RunEnded:
            pass  # said already; whoever ends the run knows why
        return False

    def attempt(self, what: str, action: Callable, *arguments: object) -> bool:
        """Whether the action succeeded. Raises RunEnded when it did not and the config says stop."""
        try:
            action(*arguments)
        except SaveFailed as error:
            text, self._saved = str(error), None
        except OSError as error:
            text = f"{what} could not be written ({reason(error)}); it is kept and written later"
        else:
            return True
        if self._cfg.guards.disk_full == "stop":
            raise RunEnded(f"{text} (config.guards.disk_full=stop)", exits.STOPPED)
        say(f"WARNING: {text}; the run goes on (config.guards.disk_full=warn)")
        return False

    def _is_evaluated(self, step: int) -> bool:
        lines = [line for line in _lines(self._workdir / EVALUATIONS, is_evaluation) if line["step"] == step]
        return len({line["policy"] for line in lines}) == len(lines) == len(self._cfg.eval.temperatures)


def stored_checkpoints(workdir: Path) -> Checkpoints:
    """The checkpoints of the run in `workdir`, to be read alone, at least one; the run may go on meanwhile. Raises
    UserError where there is none."""
    folder = workdir / CHECKPOINTS
    found = Checkpoints(folder, keep=1, scores=scores(workdir), read_only=True) if folder.is_dir() else None
    if found is None or found.latest() is None:
        raise UserError(f"no checkpoint in {workdir}")
    return found


def scores(workdir: Path) -> dict[int, float]:
    """Mean held-out accuracy of the evaluated steps of a run: what the best checkpoint is chosen by. A step of which a
    policy got no answer has none."""
    by_step: dict[int, list[dict]] = {}
    for line in _lines(workdir / EVALUATIONS, is_evaluation):
        by_step.setdefault(line["step"], []).append(line)
    found = {step: _score(lines) for step, lines in by_step.items()}
    return {step: score for step, score in found.items() if score is not None}


def say(text: str) -> None:
    if agreement.is_lead():
        tell(text, file=sys.stderr, flush=True)


def _score(evaluations: Iterable[Mapping[str, Any]]) -> float | None:
    found = [values["accuracy"] for values in evaluations]
    return None if not found or None in found else float(np.mean(found))


def _lines(path: Path, expected: Expected) -> list[dict]:
    """Nobody depends on them so much that a file that cannot be read should end a run."""
    try:
        return read_lines(path, expected)
    except OSError:
        return []
