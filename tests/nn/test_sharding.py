"""The mesh, and parameters that are the same wherever they live."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.config import LoraConfig, UserError, plugins, resolve
from finemem_jax.nn.layers import logical_axes
from finemem_jax.nn.sharding import ShardingRules, init_params, make_mesh

needs_8_devices = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8"
)


def test_one_axis_takes_the_rest():
    count = jax.device_count()
    assert dict(make_mesh().shape) == {"data": count, "fsdp": 1, "sequence": 1, "tensor": 1}
    assert dict(make_mesh(data=1, fsdp=-1).shape) == {"data": 1, "fsdp": count, "sequence": 1, "tensor": 1}


@pytest.mark.parametrize("sizes", [{"data": 3, "fsdp": 5}, {"tensor": 7}, {"data": -1, "fsdp": -1}, {"tensor": 0}])
def test_a_mesh_that_does_not_match_the_devices_is_refused(sizes):
    with pytest.raises(UserError, match="mesh data="):
        make_mesh(**sizes)


def test_every_rule_places_an_axis_of_some_model():
    named = set()
    roles = ((), ("write", "answer"))
    for family, own in itertools.product(plugins("finemem_jax.models"), roles):
        module = resolve("finemem_jax.models", family)
        cfg = dataclasses.replace(module.PRESETS["tiny"], lora=LoraConfig(rank=2, roles=own))
        axes = jax.tree.leaves(logical_axes(module.Model(cfg)), is_leaf=lambda leaf: isinstance(leaf, tuple))
        named |= {name for leaf in axes for name in leaf}
    assert {field.name for field in dataclasses.fields(ShardingRules)} == named - {None}


def test_a_mesh_axis_used_twice_is_refused():
    with pytest.raises(UserError, match="used twice"):
        ShardingRules(embed="tensor").spec(("embed", "heads"))


@needs_8_devices
@pytest.mark.parametrize("sizes", [{"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_parameters_and_logits_are_the_same_on_one_device_and_on_eight(sizes):
    module = resolve("finemem_jax.models", "qwen3")
    model = module.Model(module.PRESETS["tiny"])
    one = init_params(model, jax.random.key(0))
    mesh = make_mesh(**sizes)
    many = init_params(model, jax.random.key(0), mesh)
    kernel = many["layers"]["mlp"]["up_proj"]["kernel"]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == mesh.shape["fsdp"] * mesh.shape["tensor"]
    jax.tree.map(np.testing.assert_array_equal, one, many)
    tokens = jax.random.randint(jax.random.key(1), (8, 6), 0, 512)
    inputs = (tokens, jnp.broadcast_to(jnp.arange(6), (8, 6)), jnp.ones((8, 6), jnp.int32))
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply({"params": one}, *inputs), apply({"params": many}, *inputs), atol=1e-5)
