"""Which process of which run this is, read from flags, the environment, SLURM or a TPU's metadata. Imports no jax.

The first of these that speaks decides:

    flags                 --coordinator=HOST:PORT --processes=N --process=I
    environment           JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID
    SLURM                 inside `srun` with more than one task
    TPU, set by GKE       TPU_WORKER_HOSTNAMES, TPU_WORKER_ID
    TPU VM                the instance's metadata server
"""

from __future__ import annotations

import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finemem_jax.config import UserError

TPU_PORT = 8476  # of the coordinator, where nothing else is said: the one jax itself takes
METADATA_SECONDS = 5.0
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclass(frozen=True, slots=True)
class Place:
    """One process among those of a run."""

    coordinator: str  # "host:port" on which process 0 listens; the others connect to it
    processes: int  # at least 2
    process: int  # 0 ... processes - 1
    local_devices: tuple[int, ...] | None = None  # of the host's devices, those of this process; None = all
    source: str = "flags"  # what said so, for error messages

    def __post_init__(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"coordinator {self.coordinator!r} ({self.source}) must be HOST:PORT (--coordinator)")
        if self.processes < 1:
            raise UserError(f"{self.processes} processes ({self.source}): at least 1 (--processes)")
        if not 0 <= self.process < self.processes:
            raise UserError(
                f"process {self.process} of {self.processes} processes ({self.source}): numbers are from 0 to "
                f"{self.processes - 1} (--process, --processes)"
            )


def find_place(
    coordinator: str = "", processes: int | None = None, process: int | None = None, env: Mapping[str, str] = os.environ
) -> Place | None:
    """The place of this process in its run, or None for a run of one process. Raises UserError on half a place."""
    given = {"--coordinator": coordinator or None, "--processes": processes, "--process": process}
    if any(value is not None for value in given.values()):
        if processes == 1 and process in (None, 0):
            return None
        if not coordinator or processes is None or process is None:
            missing = next(name for name, value in given.items() if value is None)
            raise UserError(f"a run of several processes needs --coordinator, --processes and --process: {missing}?")
        return Place(coordinator, processes, process)
    return _from_variables(env) or _from_slurm(env) or _from_gke(env) or _from_metadata(env)


def _from_variables(env: Mapping[str, str]) -> Place | None:
    coordinator, processes, process = (env.get(name, "") for name in VARIABLES)
    if not processes and not process:
        return None  # the address alone belongs to jax's own detection of a cluster
    if not processes.isdecimal() or not process.isdecimal() or not coordinator:
        found = ", ".join(f"{name}={env.get(name)!r}" for name in VARIABLES)
        raise UserError(f"a run of several processes needs all of {', '.join(VARIABLES)}: {found}")
    if int(processes) == 1:
        return None
    return Place(coordinator, int(processes), int(process), source="JAX_… variables")


def _from_slurm(env: Mapping[str, str]) -> Place | None:
    """A task of `srun`. The job's batch script has no SLURM_STEP_NODELIST: it is not one of the processes."""
    nodes = env.get("SLURM_STEP_NODELIST", "")
    name = "SLURM_STEP_NUM_TASKS" if env.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    tasks = _number(env, name, "1")
    if not nodes or tasks < 2:
        return None
    job, local = _number(env, "SLURM_JOB_ID"), _number(env, "SLURM_LOCALID", "0")
    # Two jobs on one node get different ports, so that neither meets the other's processes.
    port = env.get("JAX_COORDINATOR_PORT") or str(61440 + job % 4096)
    # One task per node takes all devices; several tasks take one each, as `--ntasks-per-node=GPUS` means it.
    alone = re.fullmatch(r"1(\(x\d+\))?", env.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    process = _number(env, "SLURM_PROCID")
    return Place(f"{first_host(nodes)}:{port}", tasks, process, None if alone else (local,), source="SLURM")


def _number(env: Mapping[str, str], name: str, default: str = "") -> int:
    value = env.get(name) or default
    if not value.isdecimal():
        raise UserError(f"{name}={value!r} in the environment: must be a whole number")
    return int(value)


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: "node[003-010,12],other" is "node003"."""
    name, number = re.findall(r"([^,\[]*)(?:\[([^,\-\]]*))?", nodes)[0]
    return name + number


def _from_gke(env: Mapping[str, str]) -> Place | None:
    hosts = [host for host in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) < 2 or "TPU_WORKER_ID" not in env:
        return None
    return _tpu_place(hosts, _number(env, "TPU_WORKER_ID"), env, "TPU_WORKER_HOSTNAMES")


def _from_metadata(env: Mapping[str, str]) -> Place | None:
    """A TPU VM. Nothing is asked of the network on a machine that is none."""
    if env.get("JAX_PLATFORMS", "tpu") not in ("", "tpu") or env.get("TPU_SKIP_MDS_QUERY"):
        return None
    if "GCE_METADATA_HOST" not in env and not _has_tpu():
        return None
    number, endpoints = (_metadata(name, env) for name in ("agent-worker-number", "worker-network-endpoints"))
    if number is None or not number.isdecimal() or endpoints is None:
        return None
    # Either plain host names or "name:id:address" triples.
    hosts = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]
    return _tpu_place(hosts, int(number), env, "TPU metadata") if len(hosts) > 1 else None


def _tpu_place(hosts: list[str], worker: int, env: Mapping[str, str], source: str) -> Place:
    return Place(f"{hosts[0]}:{env.get('JAX_COORDINATOR_PORT') or TPU_PORT}", len(hosts), worker, source=source)


def _has_tpu() -> bool:
    devices = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(devices) and importlib.util.find_spec("libtpu") is not None


def _metadata(name: str, env: Mapping[str, str]) -> str | None:
    host = env.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{name}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=METADATA_SECONDS) as answer:
            return answer.read().decode().strip()
    except (urllib.error.URLError, OSError):
        return None
