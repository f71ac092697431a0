"""Checkpoints of a run: parameters, optimizer state and a JSON note, on Orbax.

A checkpoint is complete or absent: it is written under a temporary name and renamed at the end. The arrays are
restored with the shardings of the state they replace, so a run may resume on another mesh.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from finemem_jax.config import UserError
from finemem_jax.rl.train_state import TrainState


class Checkpoints:
    """The newest `keep` checkpoints of a run, in one folder, by step.

    Parameters and the rest of the state are separate items, so that an export reads the parameters alone.
    """

    def __init__(self, workdir: str | os.PathLike, keep: int):
        self.folder = os.path.abspath(os.fspath(workdir))
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=("params", "optimizer", "extra")
        )

    def save(self, step: int, state: TrainState, extra: dict[str, Any]) -> None:
        """Starts to save the state under `step` with a JSON-able note; the state may be donated right after.

        A step that is already saved is replaced: it is from before an interruption, and equal."""
        if step in self._manager.all_steps():
            self._manager.wait_until_finished()
            self._manager.delete(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                optimizer=ocp.args.StandardSave(_without_params(state)),
                extra=ocp.args.JsonSave(extra),
            ),
            force=True,
        )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None when there is none."""
        return self._manager.latest_step()

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint in the shapes, dtypes and shardings of `state` (arrays or abstract), and its note."""
        restored = self._manager.restore(
            self._newest(),
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(_abstract(state.params)),
                optimizer=ocp.args.StandardRestore(_abstract(_without_params(state))),
                extra=ocp.args.JsonRestore(),
            ),
        )
        rest = restored["optimizer"]
        return TrainState(rest["step"], restored["params"], rest["opt_state"]), restored["extra"]

    def restore_params(self, params: Any) -> Any:
        """The newest checkpoint's parameters alone, in the shapes, dtypes and shardings of `params`."""
        restored = self._manager.restore(
            self._newest(), args=ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(params)))
        )
        return restored["params"]

    def wait(self) -> None:
        """Returns when everything that was saved is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def _newest(self) -> int:
        self.wait()
        step = self.latest()
        if step is None:
            raise UserError(f"no checkpoint in {self.folder}")
        return step


def _without_params(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
