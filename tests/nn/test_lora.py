"""Adapters: off is the base, merged is the adapted model, one per row is the shared one row by row."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.config import LoraConfig, Projection, UserError, plugins, resolve
from finemem_jax.nn import lora
from finemem_jax.nn.kv_cache import KVCache
from finemem_jax.nn.layers import abstract_params, logical_axes
from finemem_jax.nn.sharding import init_params

ROWS, SEQ, VOCAB = 3, 6, 61


@pytest.fixture(scope="module")
def adapted():
    """(model, params with adapters that do something, jitted apply, inputs)."""
    module = resolve("finemem_jax.models", "qwen3")
    cfg = dataclasses.replace(
        module.PRESETS["tiny"],
        vocab_size=VOCAB,
        num_layers=2,
        lora=LoraConfig(rank=4, alpha=6.0, targets=("q_proj", "o_proj", "down_proj")),
    )
    model = module.Model(cfg)
    base = lora.without_adapters(init_params(model, jax.random.key(0)))
    params = lora.init_adapters(model, base, jax.random.key(1))
    base, adapters = lora.split_adapters(params)
    moved = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapters)
    tokens = jax.random.randint(jax.random.key(2), (ROWS, SEQ), 0, VOCAB)
    inputs = (tokens, jnp.broadcast_to(jnp.arange(SEQ), (ROWS, SEQ)), jnp.ones((ROWS, SEQ), jnp.int32))
    return model, params, lora.join_adapters(base, moved), jax.jit(model.apply), inputs


def test_fresh_adapters_change_nothing_and_trained_ones_do(adapted):
    model, fresh, params, apply, inputs = adapted
    plain = type(model)(dataclasses.replace(model.cfg, lora=LoraConfig()))
    base = np.asarray(jax.jit(plain.apply)({"params": lora.without_adapters(params)}, *inputs))
    np.testing.assert_allclose(apply({"params": fresh}, *inputs), base, atol=1e-5)
    assert np.abs(apply({"params": params}, *inputs) - base).max() > 1e-2


def test_reference_is_the_base_with_adapters_off_and_shares_its_arrays(adapted):
    _, fresh, params, apply, inputs = adapted
    reference = lora.without_adapters(params)
    np.testing.assert_allclose(apply({"params": reference}, *inputs), apply({"params": fresh}, *inputs), atol=1e-5)
    held = {id(leaf) for leaf in jax.tree.leaves(params)}
    assert all(id(leaf) in held for leaf in jax.tree.leaves(reference))
    assert not lora.has_adapters(reference) and lora.has_adapters(params)


@pytest.mark.parametrize("family", plugins("finemem_jax.models"))
def test_every_family_has_the_projections_that_the_config_names(family):
    module = resolve("finemem_jax.models", family)
    cfg = LoraConfig(rank=2, targets=typing.get_args(Projection))
    params = abstract_params(module.Model(dataclasses.replace(module.PRESETS["tiny"], lora=cfg)))
    lora.check_targets(cfg, params)
    with pytest.raises(UserError, match="no projection 'q_porj'; it has down_proj"):
        lora.check_targets(dataclasses.replace(cfg, targets=("q_porj",)), params)


def test_only_the_targets_carry_adapters_and_they_declare_axes(adapted):
    model, _, params, _, _ = adapted
    attention = params["layers"]["attention"]
    assert "lora" in attention["q_proj"] and "lora" not in attention["k_proj"]
    assert attention["q_proj"]["lora"]["a"].shape == (2, 64, 4)
    axes = logical_axes(model)["layers"]["mlp"]["down_proj"]["lora"]
    assert axes == {"a": ("layers", "mlp", "lora"), "b": ("layers", "lora", "embed")}


def test_merged_weights_equal_the_adapted_model(adapted):
    model, _, params, apply, inputs = adapted
    merged = lora.merge_adapters(model, params)
    assert not lora.has_adapters(merged)
    np.testing.assert_allclose(apply({"params": merged}, *inputs), apply({"params": params}, *inputs), atol=2e-5)


def test_one_adapter_per_row_equals_each_shared_adapter_on_its_row(adapted):
    _, fresh, params, apply, inputs = adapted
    base, moved = lora.split_adapters(params)
    scales = jnp.array([1.0, -0.5, 0.0])
    rows = jax.tree.map(lambda x: x * scales[None, :, None, None], lora.per_row_adapters(moved, ROWS))
    together = apply({"params": lora.join_adapters(base, rows)}, *inputs)
    for row, scale in enumerate(scales):
        alone = apply({"params": lora.join_adapters(base, jax.tree.map(lambda x, s=scale: x * s, moved))}, *inputs)
        np.testing.assert_allclose(together[row], alone[row], atol=1e-5)
    assert np.abs(together[0] - apply({"params": fresh}, *inputs)[0]).max() > 1e-2
    with pytest.raises(UserError, match="one per row"):
        lora.merge_adapters(adapted[0], lora.join_adapters(base, rows))


def test_one_adapter_per_row_decodes_from_the_cache_as_in_the_full_forward(adapted):
    model, _, params, apply, (tokens, positions, segment_ids) = adapted
    base, moved = lora.split_adapters(params)
    scales = jnp.array([1.0, -0.5, 0.0])[None, :, None, None]
    own = lora.join_adapters(base, jax.tree.map(lambda x: x * scales, lora.per_row_adapters(moved, ROWS)))
    full = apply({"params": own}, tokens, positions, segment_ids)
    cache = KVCache.create(model.cfg, ROWS, SEQ)
    step = jax.jit(model.apply)
    for t in range(SEQ):
        part = np.s_[:, t : t + 1]
        logits, cache = step({"params": own}, tokens[part], positions[part], segment_ids[part], cache=cache)
        np.testing.assert_allclose(logits[:, 0], full[:, t], atol=2e-5)


def test_the_gradient_with_respect_to_adapters_leaves_the_base_alone(adapted):
    _, _, params, apply, inputs = adapted
    base, adapters = lora.split_adapters(params)

    def loss(adapters):
        return jnp.mean(apply({"params": lora.join_adapters(base, adapters)}, *inputs) ** 2)

    gradient = jax.grad(loss)(adapters)
    assert jax.tree.structure(gradient) == jax.tree.structure(adapters)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_an_unknown_target_is_refused(adapted):
    model, _, params, _, _ = adapted
    wrong = type(model)(dataclasses.replace(model.cfg, lora=LoraConfig(rank=2, targets=("qkv",))))
    with pytest.raises(UserError, match="no projection 'qkv'; it has down_proj, gate_proj"):
        lora.init_adapters(wrong, params, jax.random.key(0))
