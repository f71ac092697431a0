"""The estimate of memory is near what the compiler lays out, and refuses what is too large."""

from __future__ import annotations

import dataclasses

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from finemem_jax import main
from finemem_jax.config import UserError
from finemem_jax.models import qwen3
from finemem_jax.nn.sharding import make_mesh
from finemem_jax.plan import formula
from finemem_jax.plan.formula import check_memory, memory_parts, model_shape, peak
from finemem_jax.plan.programs import decode_program, planned_model, train_program

TINY = ("--config.model.path=", "--config.model.preset=tiny", "--config.model.tokenizer=tiny")
ROWS = ("--config.train.row_tokens=1024", "--config.train.logprob_chunk=128", "--config.loss.kl_coef=0.01")
CACHE = ("--config.engine.slots=16", "--config.engine.cache_tokens=1024")
MEDIUM = ("--config.model.path=", "--config.model.preset=medium", "--config.model.tokenizer=tiny", *ROWS, *CACHE)
HALF = ("--config.model.dtype=bfloat16", "--config.model.remat=full")
LARGE = (*MEDIUM, *HALF, "--config.model.preset=0.6b", "--config.train.microbatch_rows=2")
LARGE = (*LARGE, "--config.train.row_tokens=2048", "--config.train.logprob_chunk=256")


@pytest.fixture(autouse=True)
def medium(monkeypatch):
    """A preset of 7 M parameters between tiny (0.4 M) and 0.6b."""
    sizes = dict(vocab_size=8192, hidden_size=256, num_layers=6, num_heads=8, num_kv_heads=4, head_dim=32)
    shape = dataclasses.replace(qwen3.PRESETS["0.6b"], **sizes, intermediate_size=768)
    monkeypatch.setitem(qwen3.PRESETS, "medium", shape)


@pytest.fixture(autouse=True)
def no_cache():
    """A program out of a cache comes without the compiler's report."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def laid_out(program, cfg):
    """Bytes that XLA lays out for a program on one device: (of its arguments, of what it needs besides)."""
    lower, arguments = program(cfg, planned_model(cfg), make_mesh(devices=jax.devices()[:1]), 1)
    memory = lower(*arguments).compile().memory_analysis()
    in_place = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes, memory.temp_size_in_bytes + in_place


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(TINY, id="tiny"),
        pytest.param(MEDIUM, id="medium", marks=pytest.mark.slow),
        pytest.param((*MEDIUM, "--config.model.remat=dots"), id="medium-dots", marks=pytest.mark.slow),
        pytest.param((*MEDIUM, *HALF), id="medium-bfloat16-remat", marks=pytest.mark.slow),
        pytest.param((*MEDIUM, "--config.model.lora.rank=8"), id="medium-lora", marks=pytest.mark.slow),
        pytest.param(LARGE, id="0.6b", marks=pytest.mark.slow),
    ],
)
def test_the_update_needs_what_the_estimate_says(overrides):
    cfg = main.load_config("configs/quickstart.py", overrides)
    arguments, temporary = laid_out(train_program, cfg)
    parts = memory_parts(cfg, model_shape(cfg), 1, 1)
    estimate = parts["gradients and activations"]
    print(f"{estimate / 2**20:.1f} MiB estimated, {temporary / 2**20:.1f} laid out")
    assert estimate == pytest.approx(temporary, rel=0.1)
    assert parts["parameters"] + parts["optimizer"] == pytest.approx(arguments, rel=0.1)  # and the batch


def test_the_cache_is_what_decoding_is_given():
    cfg = main.load_config("configs/quickstart.py", [*TINY, "--config.engine.slots=256"])
    arguments, _ = laid_out(decode_program, cfg)
    parts = memory_parts(cfg, model_shape(cfg), 1, 1)
    assert peak(parts) == sum(parts.values()) - parts["gradients and activations"]  # the larger of the two counts
    assert parts["KV cache"] + parts["parameters"] == pytest.approx(arguments, rel=0.02)


def test_what_does_not_fit_is_refused_with_its_parts_and_knobs(monkeypatch):
    cfg = main.load_config("configs/quickstart.py", [*TINY])
    check_memory(cfg)
    need = peak(memory_parts(cfg, model_shape(cfg), jax.device_count(), jax.local_device_count()))
    monkeypatch.setattr(formula, "device_bytes", lambda: 0.99 * need)
    with pytest.raises(UserError, match=r"needs about .* GiB per device \(parameters .*config.train.microbatch_rows"):
        check_memory(cfg)
