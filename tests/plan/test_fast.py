"""What memory in fast weights costs: by hand at the paper's size, and as programs that lower at a tiny one."""

import dataclasses

import jax
import pytest

from finemem_jax import config, main
from finemem_jax.config import FastConfig, MethodConfig
from finemem_jax.nn.sharding import make_mesh
from finemem_jax.plan import fast, programs
from finemem_jax.plan.formula import FAST, memory_parts


def test_the_papers_setting_is_counted_and_planned(capsys):
    cfg = main.load_config("configs/neighbours/tmem.py", [])
    model = programs.planned_model(cfg)
    assert main.main(["plan", "--config=configs/neighbours/tmem.py", "--gpu-memory=80"]) == 0
    out = capsys.readouterr().out
    each = 6 * (9728 + 9728 + 2560) * 4 * 4  # float32
    assert "2.11 MB of B a row" in out and "keeps 1024 snapshots, 2.16 GB" in out and "fast weights 0." in out
    parts = memory_parts(cfg, model.cfg, 8, 8)
    assert parts[FAST] == each * 128  # 32 * 8 rollouts, of which 8 devices have an eighth each; more writes, more rows
    body = 2560 * 128 * (32 + 8 + 8 + 32) + 3 * 2560 * 9728
    passes = 2 * 32 * body + (2 * 4 * body + 2 * 151936 * 2560) * 12
    assert fast.write_flops(cfg, model) == pytest.approx(32 * 256 * passes, rel=1e-3)


def test_without_fast_weights_nothing_is_planned():
    cfg = main.load_config("configs/finemem_qwen3_4b.py", [])
    model = programs.planned_model(cfg)
    assert fast.fast_line(cfg, model, 1, 4) == "" and fast.planned_fast(cfg, model) is None
    assert FAST not in memory_parts(cfg, model.cfg, 8, 8)


def test_decoding_with_fast_weights_and_the_write_lower_on_a_mesh():
    tiny = config.default()
    tiny.model.preset, tiny.model.dtype, tiny.engine.slots, tiny.engine.cache_tokens = "tiny", "float32", 2, 128
    tiny.prompt.max_prompt_tokens, tiny.prompt.max_completion_tokens = 64, 64
    cfg = config.from_ml_collections(tiny)
    fast_cfg = FastConfig(rank=2, layers=2, rows=2, batch=2, max_texts=2, text_tokens=8)
    cfg = dataclasses.replace(cfg, method=MethodConfig(name="parametric", answers="policy", fast=fast_cfg))
    model, mesh = programs.planned_model(cfg), make_mesh(1, 1, 2, devices=jax.devices()[:2])
    for build in (programs.decode_program, programs.write_program):
        lower, arguments = build(cfg, model, mesh, 1)
        assert lower(*arguments).out_info
    shapes = programs.batch_shapes(cfg, model, make_mesh(2, 1, 1, devices=jax.devices()[:2]), 1, has_reference=False)
    assert shapes.fast["down_proj"].shape == (2, cfg.train.microbatch_rows, 2, 2, 64)
