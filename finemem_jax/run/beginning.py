"""How a run begins: alone in its folder, with the code and the config that all of its processes have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from finemem_jax import config
from finemem_jax.config import Config
from finemem_jax.exits import RunEnded
from finemem_jax.files import export_folders
from finemem_jax.hosts import agreement
from finemem_jax.run import workdir as workdirs
from finemem_jax.run.journal import say
from finemem_jax.run.preemption import Preempted, Preemption
from finemem_jax.weights.export_folder import claim_place


@contextlib.contextmanager
def alone(workdir: Path, grace: float) -> Iterator[Preemption]:
    """Around a run: no other has the folder meanwhile. grace: seconds from a signal to the end of the process.

    A signal that comes out of the block found nothing to save: it ends the run, and says so."""
    lock = workdirs.locked(workdir) if agreement.is_lead() else contextlib.nullcontext()
    with lock, Preemption(grace) as preemption:
        try:
            yield preemption
        except Preempted:
            raise RunEnded(f"{preemption.reason} during the setup: nothing to save", preemption.code) from None


def claim(cfg: Config, workdir: Path, command: str, *, accept_change: bool) -> list[str]:
    """The folder is this config's, in every process; returns what changed against the run that it holds. Raises
    UserError where it is another's (`workdir.claim`), where processes differ, and where the export has no place."""
    changed = workdirs.claim(cfg, workdir, command, accept_change=accept_change)
    if agreement.is_lead() and command != "train":
        workdirs.mark(workdir, command)
    agreement.require_same({"code": workdirs.code_version(), **workdirs.flat(config.to_dict(cfg))}, "config")
    agreement.require_shared(workdir)
    for place in export_folders(workdir / "hf", cfg.model.lora.roles):
        claim_place(place)
    if changed:
        say(f"the config of {workdir} changes: {'; '.join(changed)}")
    return changed
