"""Import and export by two processes that each hold a part of every parameter."""

import json
import os
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file

from tests.compiling import quick_compilation
from tests.ports import reserve_port

WORKER = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
process, port, folder, out = int(sys.argv[1]), *sys.argv[2:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)

import builtins, json
from pathlib import Path
from finemem_jax.nn.sharding import make_mesh
from finemem_jax.weights import safetensor_files
from finemem_jax.weights.hf import load_pretrained, save_pretrained

written, read = [], []
save_file, read_slice = safetensor_files.save_file, safetensor_files.Checkpoint.read
safetensor_files.save_file = lambda *a, **k: (written.append(str(a[1])), save_file(*a, **k))
def counted(*a):
    read.append((x := read_slice(*a)).nbytes)
    return x
safetensor_files.Checkpoint.read = counted
model, params = load_pretrained(folder, mesh=make_mesh(data=1, fsdp=4))
assert not params["embedding"]["table"].is_fully_addressable
whole = max(x.nbytes for x in jax.tree.leaves(params))
held = [s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards]
save_pretrained(out, model, params)
print(json.dumps({"written": len(written), "read": sum(read), "largest_shard": max(held), "whole": whole}))
"""


def test_two_processes_read_their_shards_and_one_writes(tmp_path):
    import dataclasses

    import jax

    from finemem_jax.config import resolve
    from finemem_jax.nn.sharding import init_params
    from finemem_jax.weights.hf import save_pretrained

    module = resolve("finemem_jax.models", "qwen3")
    model = module.Model(dataclasses.replace(module.PRESETS["tiny"], num_layers=2))
    params = init_params(model, jax.random.key(0))
    save_pretrained(tmp_path / "in", model, params)

    port = reserve_port()
    flags = " ".join(["--xla_force_host_platform_device_count=2", *quick_compilation()])
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", WORKER]
    arguments = [str(port), str(tmp_path / "in"), str(tmp_path / "out")]
    workers = [
        subprocess.Popen([*command, str(i), *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for i in range(2)
    ]
    try:
        results = [worker.communicate(timeout=600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], results[0][1].decode() + results[1][1].decode()
    # Gloo writes to the same stream, in its own time.
    reports = [json.loads(out[out.index(b'{"written"') :].splitlines()[0]) for out, _ in results]
    assert [report["written"] for report in reports] == [1, 0]
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    for report in reports:
        assert report["read"] < 0.55 * total  # its half, and the norms
        assert report["largest_shard"] == report["whole"] // 4
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
