"""Checkpoints of a run on Orbax: parameters, optimizer state and a JSON note, written in the background.

A checkpoint is complete or absent: it is written under a temporary name and renamed at the end. The arrays are
restored with the shardings of the state they replace, so a run may resume on another mesh, or on another number of
processes. Parameters and the rest of the state are separate items: an export reads the parameters alone.

Every item is stored with a checksum of its content. Orbax notices a missing or cut-off file, but not a flipped bit in
one: it restores other numbers without a word. What cannot be read, or is not what was written, is passed over for the
checkpoint before it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from finemem_jax.config import UserError
from finemem_jax.console import tell
from finemem_jax.rl.train_state import TrainState

DAMAGED = "damaged"  # beside the folder of the checkpoints: where those that cannot be read are moved to


class SaveFailed(Exception):
    """A checkpoint could not be written; those before it are whole."""


class Checkpoints:
    """The checkpoints of a run, in one folder, by step: the newest `keep`, and the best `keep_best` by score."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        keep: int,
        *,
        keep_best: int = 0,
        scores: Mapping[int, float] | None = None,
        read_only: bool = False,
    ):
        """scores: of steps known already, the higher the better; `score` adds to them. read_only: touches nothing,
        not even the half-written checkpoint that a running training may be at."""
        self.folder = os.path.abspath(os.fspath(workdir))
        self._best = _BestByScore(keep_best, dict(scores or {}))
        self._saving: int | None = None  # step whose end has not been waited for
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else AnyPreservationPolicy([LatestN(keep), self._best]),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("params", "optimizer", "extra"))

    # ---- writing ----

    def save(self, step: int, state: TrainState, extra: dict[str, Any]) -> None:
        """Starts to save the state under `step` with a JSON-able note; the state may be donated right after.

        A step that is already saved is replaced: it is from before an interruption, and equal. Raises SaveFailed when
        this checkpoint, or the one still being written in the background, cannot be written (a full disk)."""
        self.wait()
        rest = _without_params(state)
        checksums = {"params": checksum(state.params), "optimizer": checksum(rest), "note": _note_checksum(extra)}
        self._saving = step
        try:
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(rest),
                    extra=ocp.args.JsonSave({"note": extra, "checksums": checksums}),
                ),
                force=True,
            )
        except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when everything that was saved is on disk. Raises SaveFailed when it could not be written."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever went wrong in a thread of Orbax, the checkpoint is not there
            raise self._failed(error) from error
        self._saving = None

    def is_idle(self) -> bool:
        """Whether nothing is being written: `wait` would return, or raise, at once."""
        return not self._manager.is_saving_in_progress()

    def score(self, step: int, value: float) -> None:
        """Says how good the state of `step` is, before or after it is saved."""
        self._best.scores[step] = value

    def _failed(self, error: Exception) -> SaveFailed:
        step, self._saving = self._saving, None
        if jax.process_index() == 0:  # half a checkpoint would hold what space the disk has left
            for name in os.listdir(self.folder):
                if name.startswith(f"{step}.") and "tmp" in name:
                    shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
        self._manager.reload()
        newest = self.latest()
        intact = "there is none before it" if newest is None else f"the newest is that of step {newest}, intact"
        return SaveFailed(f"the checkpoint of step {step} could not be written ({reason(error)}); {intact}")

    # ---- reading ----

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None when there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the best score among the checkpoints; None when none has a score."""
        scored = [step for step in self.steps() if step in self._best.scores]
        return max(scored, key=lambda step: (self._best.scores[step], step)) if scored else None

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint in the shapes, dtypes and shardings of `state` (arrays or abstract), and its note.

        A damaged one is reported on stderr, moved aside, and the one before it is taken. Raises UserError when there
        is none that can be read."""
        template = {"params": state.params, "optimizer": _without_params(state)}

        def read(step: int) -> tuple[TrainState, dict[str, Any]]:
            restored, note = self._read(step, template)
            rest = restored["optimizer"]
            return TrainState(rest["step"], restored["params"], rest["opt_state"]), note

        _, found, damaged = self._newest_readable(read)
        for step in damaged:
            self._set_aside(step)
        return found

    def restore_params(self, params: Any, step: int | None = None) -> Any:
        """The parameters alone, in the shapes, dtypes and shardings of `params`: of the newest checkpoint that can be
        read, or of that of `step`."""
        return self.restore_params_at(params, step)[1]

    def restore_params_at(self, params: Any, step: int | None = None) -> tuple[int, Any]:
        """The same, with the step they are from."""

        def read(step: int) -> Any:
            return self._read(step, {"params": params})[0]["params"]

        if step is not None and step not in self.steps():
            raise UserError(f"no checkpoint of step {step} in {self.folder}; there are: {self.steps()}")
        step, found, _ = self._newest_readable(read, [step] if step is not None else None)
        return step, found

    def _newest_readable(self, read: Callable[[int], Any], steps: Sequence[int] | None = None) -> tuple:
        """(step, what `read` gave for it, the newer steps that are damaged)."""
        self.wait()
        steps = self.steps() if steps is None else steps
        if not steps:
            raise UserError(f"no checkpoint in {self.folder}")
        damaged: dict[int, str] = {}
        for step in reversed(steps):
            found, why = None, ""
            try:
                found = read(step)
            except Exception as error:  # json, tensorstore, Orbax: each has errors of its own for a damaged file
                why = reason(error)
            if _all_agree(not why):
                if damaged:
                    tell(
                        f"WARNING: going on from step {step}; work since then is done again",
                        file=sys.stderr,
                        flush=True,
                    )
                return step, found, list(damaged)
            damaged[step] = why or "another process cannot read it"
            tell(
                f"WARNING: the checkpoint of step {step} in {self.folder} is damaged: {damaged[step]}",
                file=sys.stderr,
                flush=True,
            )
        raise UserError(
            f"no checkpoint in {self.folder} can be read into this model (steps {', '.join(map(str, damaged))}); "
            f"the newest: {damaged[steps[-1]]}"
        )

    def _read(self, step: int, template: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The items of `template` from the checkpoint of `step`, and its note. Raises on any damage."""
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in template.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(extra=ocp.args.JsonRestore(), **items))
        extra = restored["extra"]
        found = {name: checksum(restored[name]) for name in template} | {"note": _note_checksum(extra["note"])}
        for name, value in found.items():
            if extra["checksums"][name] != value:
                raise ValueError(f"the content of {name} is not what was written")
        return {name: restored[name] for name in template}, extra["note"]

    def _set_aside(self, step: int) -> None:
        """Out of the way of the checkpoint that will be written under this step again; kept for a look at it."""
        if jax.process_index() == 0:
            aside = os.path.join(os.path.dirname(self.folder), DAMAGED, str(step))
            shutil.rmtree(aside, ignore_errors=True)
            os.makedirs(os.path.dirname(aside), exist_ok=True)
            shutil.move(os.path.join(self.folder, str(step)), aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()


class _BestByScore:
    """An Orbax preservation policy: the best `n` checkpoints by scores that may come after the save."""

    def __init__(self, n: int, scores: dict[int, float]):
        self.n, self.scores = n, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        scored = [c.step for c in checkpoints if c.step in self.scores]
        best = set(sorted(scored, key=lambda step: (self.scores[step], step))[len(scored) - self.n :])
        return [c.step in best for c in checkpoints]


def checksum(tree: Any) -> int:
    """A number that the bits of all arrays and their positions determine; the same on any mesh.

    Σ over elements of bits * (2 position + 1), modulo 2^32: any single changed element changes it. Leaves count in
    order, each with a factor of its own."""
    leaves = jax.tree.leaves(tree)
    by_devices: dict[Any, list[int]] = {}  # one call cannot take arrays of different meshes
    for index, leaf in enumerate(leaves):
        by_devices.setdefault(frozenset(leaf.sharding.device_set), []).append(index)
    sums = np.zeros(len(leaves), np.uint32)
    for members in by_devices.values():
        sums[members] = jax.device_get(_leaf_sums([leaves[index] for index in members]))
    return zlib.crc32(sums.tobytes())


@jax.jit
def _leaf_sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_weighted_bits(leaf) for leaf in leaves]


def _weighted_bits(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        x = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    weight = jnp.ones(x.shape, jnp.uint32)
    stride = 2
    for axis in reversed(range(x.ndim)):  # not flattened: that would gather a sharded array
        weight += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * np.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(x.astype(jnp.uint32) * weight, dtype=jnp.uint32)


def reason(error: BaseException) -> str:
    """One short line of an error; of tensorstore's page-long ones the end that says what happened."""
    text = str(error).strip()
    for known in ("No space left on device", "File too large", "Disk quota exceeded", "Read-only file system"):
        if known in text:
            return known
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first[:200]}"


def _note_checksum(note: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(note, sort_keys=True).encode())


def _all_agree(is_fine: bool) -> bool:
    """Whether it is fine in every process: all must go on from the same step."""
    if jax.process_count() == 1:
        return is_fine
    return bool(np.all(multihost_utils.process_allgather(np.array(is_fine))))


def _without_params(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
