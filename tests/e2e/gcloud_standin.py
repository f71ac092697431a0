"""A stand-in for `gcloud compute tpus tpu-vm`: every worker of the slice is a folder and its commands local processes.

    gcloud_standin.py compute tpus tpu-vm ssh|scp|describe ...

STANDIN: folder with a home folder per worker, worker-0, worker-1, … Each call becomes a line of STANDIN/calls. Where a
real TPU VM asks its metadata server which worker it is, these are told by JAX_… variables, with STANDIN_PORT as the
coordinator's port.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ["STANDIN"])
HOMES = sorted(ROOT.glob("worker-*"))


def main(arguments: list[str]) -> int:
    assert arguments[:3] == ["compute", "tpus", "tpu-vm"], arguments
    verb, rest = arguments[3], arguments[4:]
    with (ROOT / "calls").open("a") as calls:
        calls.write(" ".join(arguments[3:]).replace("\n", " ") + "\n")
    options = dict(item[2:].partition("=")[::2] for item in rest if item.startswith("--"))
    plain = [item for item in rest if not item.startswith("--")]
    if "zone" not in options:
        return 1
    if verb == "describe":
        print("READY")
        return 0
    workers = range(len(HOMES)) if options["worker"] == "all" else [int(options["worker"])]
    if verb == "scp":
        for worker in workers:
            shutil.copy(plain[0], HOMES[worker] / plain[1].partition(":")[2])
        return 0
    assert verb == "ssh", verb
    return max(run(worker, options["command"]) for worker in workers)


def run(worker: int, command: str) -> int:
    place = {
        "HOME": str(HOMES[worker]),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{os.environ['STANDIN_PORT']}",
        "JAX_NUM_PROCESSES": str(len(HOMES)),
        "JAX_PROCESS_ID": str(worker),
    }
    return subprocess.run(["bash", "-c", command], cwd=HOMES[worker], env=os.environ | place).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
