"""Time and memory of `load_pretrained`, against reading the same files with safetensors alone."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from finemem_jax.config import UserError, resolve, unknown
from finemem_jax.nn.sharding import init_params
from finemem_jax.weights.hf import find_folder, load_pretrained, save_pretrained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--path", default="", help="folder or hub name; default: random weights, written to a temp folder"
    )
    parser.add_argument("--family", default="qwen3", help="of the random weights")
    parser.add_argument("--preset", default="0.6b", help="of the random weights")
    parser.add_argument("--checkpoint-dtype", default="bfloat16", help="of the random weights: float32 | bfloat16")
    parser.add_argument("--dtype", default="bfloat16", help="to load as: float32 | bfloat16")


def run(args: argparse.Namespace) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        if args.path:
            folder = find_folder(args.path)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            _random_checkpoint(folder, args.family, args.preset, args.checkpoint_dtype)
        files = sorted(folder.glob("*.safetensors"))
        _read_alone(files)  # so that both sides read from the page cache
        alone = _read_alone(files)
        first = _load_once(folder, args.dtype)
        again = _load_once(folder, args.dtype)
    return {
        "parameters": again["parameters"],
        "bytes_read": alone["bytes"],
        "largest_tensor_bytes": alone["largest"],
        "parameter_bytes": again["parameter_bytes"],
        "first_seconds": first["seconds"],  # compilation included
        "seconds": again["seconds"],
        "bytes_per_second": alone["bytes"] / again["seconds"],
        "safetensors_seconds": alone["seconds"],
        "safetensors_bytes_per_second": alone["bytes"] / alone["seconds"],
        # Of the first load: the second reuses memory that the first gave back to the allocator.
        "peak_bytes_above_parameters": first["peak_bytes"] - first["parameter_bytes"],
        "dtype": args.dtype,
        "device": jax.devices()[0].device_kind,
    }


def _random_checkpoint(folder: Path, family: str, preset: str, dtype: str) -> None:
    module = resolve("finemem_jax.models", family)
    if preset not in module.PRESETS:
        raise UserError(unknown(preset, list(module.PRESETS), f"preset of {family}"))
    model = module.Model(dataclasses.replace(module.PRESETS[preset], param_dtype=dtype))
    save_pretrained(folder, model, init_params(model, jax.random.key(0)), max_shard_bytes=1_000_000_000)


def _read_alone(files: Sequence[Path]) -> dict[str, Any]:
    from safetensors import safe_open

    start = time.perf_counter()
    sizes = []
    for file in files:
        with safe_open(file, "np") as handle:
            sizes += [handle.get_tensor(name).nbytes for name in handle.keys()]  # noqa: SIM118 (not a dict)
    return {"seconds": time.perf_counter() - start, "bytes": sum(sizes), "largest": max(sizes)}


def _load_once(folder: Path, dtype: str) -> dict[str, Any]:
    with _peak_memory() as memory:
        start = time.perf_counter()
        _, params = load_pretrained(folder, dtype=dtype)
        jax.block_until_ready(params)
        seconds = time.perf_counter() - start
    leaves = jax.tree.leaves(params)
    # On an accelerator the parameters are not part of this process's memory.
    on_host = jax.devices()[0].platform == "cpu"
    return {
        "seconds": seconds,
        "parameters": sum(leaf.size for leaf in leaves),
        "parameter_bytes": sum(leaf.nbytes for leaf in leaves) if on_host else 0,
        "peak_bytes": memory["peak_bytes"],
    }


@contextlib.contextmanager
def _peak_memory(interval: float = 0.002) -> Iterator[dict[str, int]]:
    """Highest resident memory of this process during the block, above what it was before, in bytes."""
    before = _resident_bytes()
    memory = {"peak_bytes": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            memory["peak_bytes"] = max(memory["peak_bytes"], _resident_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()
        memory["peak_bytes"] = max(memory["peak_bytes"], _resident_bytes() - before)


def _resident_bytes() -> int:
    fields = Path("/proc/self/status").read_text()
    return int(fields.partition("VmRSS:")[2].split()[0]) * 1024
