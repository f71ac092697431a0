"""Host and device memory over a long run of tiny steps: measured every few steps, plotted, and fitted with a line.

    python tests/e2e/memory_harness.py --steps 2000 --out runs/memory --picture docs/images/memory.png

Prints a JSON object: growth per 1,000 steps over the second half of the run, in MB and in share of the level. Exit
code 1 when either memory grows by more than 2 % of its level per 1,000 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.compiling import quick_compilation  # noqa: E402

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(quick_compilation())
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax-tests"))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from finemem_jax import main  # noqa: E402

FLAT = 0.02  # of the level, per 1,000 steps

SMALLEST = (
    "--config.train.episodes=1",
    "--config.train.group_size=2",
    "--config.train.mini_batches=1",
    "--config.train.microbatch_rows=1",
    "--config.train.checkpoint_every=200",
    "--config.train.eval_every=100",
    "--config.eval.episodes=1",
    "--config.eval.temperatures=(0.0,)",
    "--config.eval.baselines=()",
    "--config.engine.slots=4",
    "--config.engine.decode_chunk=8",
    "--config.data.diary.chunks=1",
    "--config.data.diary.train_episodes=64",
    "--config.prompt.max_prompt_tokens=128",
    "--config.prompt.max_completion_tokens=16",
    "--config.engine.cache_tokens=144",
    "--config.train.row_tokens=288",
    "--config.guards.reward_collapse.action=off",
    "--config.guards.length_explosion.action=off",
)


def resident_bytes() -> int:
    """Resident memory of this process, as the kernel counts it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sample(workdir: Path, every: int, samples: list[tuple[int, int, int]], done: threading.Event) -> None:
    """Appends (step, host bytes, device bytes), each time the run has gone on by `every` steps. Device memory is what
    the live arrays hold: the CPU backend keeps no count of its own."""
    while not done.wait(0.02):
        try:
            beat = json.loads((workdir / "heartbeat.json").read_text())
        except (OSError, ValueError):
            continue
        if beat["phase"] == "rollout" and (not samples or beat["step"] >= samples[-1][0] + every):
            device = sum(array.nbytes for array in jax.live_arrays())
            samples.append((beat["step"], resident_bytes(), device))


def growth(steps: np.ndarray, values: np.ndarray) -> float:
    """Slope of the least-squares line through the second half, per 1,000 steps."""
    half = len(steps) // 2
    return 1000 * float(np.polyfit(steps[half:], values[half:], 1)[0])


def plot(picture: Path, table: np.ndarray, text: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    top.plot(table[:, 0], table[:, 1] / 1e6, linewidth=1)
    top.set(ylabel="host, resident MB", ylim=(0, None), title=text)
    bottom.plot(table[:, 0], table[:, 2] / 1e6, linewidth=1, color="C1")
    bottom.set(ylabel="device, live MB", xlabel="step", ylim=(0, None))
    figure.savefig(picture, dpi=90, metadata={"Software": None})


def harness(out: Path, steps: int, picture: Path | None) -> dict:
    shutil.rmtree(out, ignore_errors=True)
    samples: list[tuple[int, int, int]] = []
    done = threading.Event()
    every = max(1, steps // 400)
    sampler = threading.Thread(target=sample, args=(out, every, samples, done), daemon=True)
    sampler.start()
    started = time.monotonic()
    config = f"--config={ROOT / 'configs/quickstart.py'}"
    code = main.main(["train", config, f"--workdir={out}", f"--config.train.steps={steps}", *SMALLEST])
    done.set()
    sampler.join()
    if code:
        raise SystemExit(code)
    table = np.array(samples, np.float64)
    np.savetxt(out / "memory.csv", table, fmt="%d", delimiter=",", header="step,host_bytes,device_bytes")
    result: dict = {"steps": steps, "samples": len(samples), "seconds": round(time.monotonic() - started, 1)}
    for column, name in ((1, "host"), (2, "device")):
        level, slope = float(np.median(table[len(table) // 2 :, column])), growth(table[:, 0], table[:, column])
        result[f"{name}_mb"] = round(level / 1e6, 2)
        result[f"{name}_growth_mb_per_1000"] = round(slope / 1e6, 3)
        result[f"{name}_growth_share"] = round(slope / level, 5)
    if picture:
        plot(picture, table, f"memory over {steps:,} tiny steps (checkpoint every 200, evaluation every 100)")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; emptied first")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    found = harness(given.out, given.steps, given.picture)
    print(json.dumps(found))
    sys.exit(found["host_growth_share"] > FLAT or found["device_growth_share"] > FLAT)
