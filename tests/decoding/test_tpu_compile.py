"""Decoding compiled ahead of time for a TPU host, by libtpu's compiler: no TPU is needed, `pip install libtpu` is."""

import dataclasses
import os
import re

import numpy as np
import pytest

pytest.importorskip("libtpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5e-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

from jax.experimental import topologies

from finemem_jax.config import EngineConfig
from finemem_jax.decoding.placement import abstract_decode, decode_mesh
from finemem_jax.models import qwen3


@pytest.mark.slow
def test_decode_compiles_for_a_tpu_host_with_paged_attention_and_its_cache_in_place():
    devices = list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)
    shape = dataclasses.replace(qwen3.PRESETS["0.6b"], num_layers=4, dtype="bfloat16")
    model = qwen3.Model(shape)
    mesh = decode_mesh(shape, devices)
    assert mesh.shape["tensor"] == 4
    cfg = EngineConfig(slots=16, cache_tokens=1024, page_tokens=64)
    lower, arguments = abstract_decode(model, cfg, mesh)
    program = lower(*arguments).compile()
    assert "tpu_custom_call" in program.as_text()  # the Pallas kernel
    pool = 2 * 4 * (16 * 16 + 1) * 64 * 8 * 128 * 2 // 4  # bytes per chip: keys, values; layers, pages, tokens, heads
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= pool  # the donated pool is the returned one
    assert memory.temp_size_in_bytes < pool  # and it is not copied on the way
    assert np.prod(arguments[1].keys.shape) * 2 * 2 // 4 == pool
    # Nor in any layer, to write it in another layout than the kernel reads.
    blocks = arguments[1].keys.shape[1]
    assert f"[2,{blocks},64,128]" in program.as_text()
    assert not re.search(rf"\[2,{blocks},64,128\]\S* copy\(", program.as_text())
