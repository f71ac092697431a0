"""Every published size: parameter counts to the unit, config.json round trip, a well-formed sharding."""

import dataclasses
import math

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from finemem_jax.config import UserError, plugins, resolve
from finemem_jax.nn.layers import abstract_params, logical_axes
from finemem_jax.nn.sharding import param_shardings

# As published (a tied table counted once).
PUBLISHED = {
    "qwen3": {
        "0.6b": 596_049_920,
        "1.7b": 1_720_574_976,
        "4b": 4_022_468_096,
        "8b": 8_190_735_360,
        "14b": 14_768_307_200,
        "32b": 32_762_123_264,
    },
    "qwen2": {
        "0.5b": 494_032_768,
        "1.5b": 1_543_714_304,
        "3b": 3_085_938_688,
        "7b": 7_615_616_512,
        "14b": 14_770_033_664,
        "32b": 32_763_876_352,
        "72b": 72_706_203_648,
    },
    "llama3": {
        "3.2-1b": 1_235_814_400,
        "3.2-3b": 3_212_749_824,
        "3-8b": 8_030_261_248,
        "3.1-8b": 8_030_261_248,
        "3.3-70b": 70_553_706_496,
        "3.1-405b": 405_853_388_800,
    },
}
FAMILIES = plugins("finemem_jax.models")
PRESETS = [(family, name) for family in FAMILIES for name in resolve("finemem_jax.models", family).PRESETS]


def _model(family: str, name: str):
    module = resolve("finemem_jax.models", family)
    return module.Model(module.PRESETS[name])


@pytest.mark.parametrize(("family", "name"), PRESETS)
def test_parameter_count_is_the_published_one(family, name):
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(_model(family, name))))
    expected = PUBLISHED.get(family, {}) | {"tiny": count}
    assert name in expected, "state the published parameter count of the new preset in PUBLISHED"
    assert count == expected[name]


@pytest.mark.parametrize(("family", "name"), PRESETS)
def test_config_json_round_trip(family, name):
    module = resolve("finemem_jax.models", family)
    cfg = module.PRESETS[name]
    assert module.config_from_hf(module.config_to_hf(cfg)) == cfg


@pytest.mark.parametrize(("family", "name"), [p for p in PRESETS if p[1] != "tiny"])
def test_sharding_is_well_formed_on_a_pod(family, name):
    tensor = min(8, _model(family, name).cfg.num_kv_heads)  # the small Qwen2.5 have 2 kv heads, its 7B has 4
    mesh = AbstractMesh((2, 4, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    model = _model(family, name)
    shardings = param_shardings(model, mesh)
    shapes = abstract_params(model)
    kernel = shardings["layers"]["attention"]["q_proj"]["kernel"]
    assert kernel.spec == PartitionSpec(None, "fsdp", "tensor")
    per_device = sum(jax.tree.leaves(jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)), shapes, shardings)))
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert per_device < total / (4 * tensor) * 1.01  # all but the norms are split fsdp * tensor ways


def test_golden_table_of_specs():
    mesh = AbstractMesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    module = resolve("finemem_jax.models", "qwen3")
    shardings = param_shardings(module.Model(module.PRESETS["8b"]), mesh)
    specs = {
        "/".join(key.key for key in path): tuple(s.spec) for path, s in jax.tree_util.tree_leaves_with_path(shardings)
    }
    assert specs == {
        "embedding/table": ("tensor", "fsdp"),
        "final_norm/scale": (None,),
        "layers/attention/k_norm/scale": (None, None),
        "layers/attention/k_proj/kernel": (None, "fsdp", "tensor"),
        "layers/attention/o_proj/kernel": (None, "tensor", "fsdp"),
        "layers/attention/q_norm/scale": (None, None),
        "layers/attention/q_proj/kernel": (None, "fsdp", "tensor"),
        "layers/attention/v_proj/kernel": (None, "fsdp", "tensor"),
        "layers/input_norm/scale": (None, None),
        "layers/mlp/down_proj/kernel": (None, "tensor", "fsdp"),
        "layers/mlp/gate_proj/kernel": (None, "fsdp", "tensor"),
        "layers/mlp/up_proj/kernel": (None, "fsdp", "tensor"),
        "layers/post_attention_norm/scale": (None, None),
        "lm_head/kernel": ("fsdp", "tensor"),
    }


def _tensor_mesh(ways):
    return AbstractMesh((1, 1, ways), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def test_fewer_kv_heads_than_devices_are_kept_whole():
    shardings = param_shardings(_model("qwen3", "4b"), _tensor_mesh(16))
    attention = shardings["layers"]["attention"]
    assert attention["k_proj"]["kernel"].spec == PartitionSpec(None, "fsdp", None)
    assert attention["q_proj"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")


def test_an_odd_vocabulary_is_kept_whole():
    model = _model("qwen3", "4b")
    odd = type(model)(dataclasses.replace(model.cfg, vocab_size=151_669))
    assert param_shardings(odd, _tensor_mesh(8))["embedding"]["table"].spec == PartitionSpec(None, "fsdp")


def test_query_heads_that_do_not_split_are_refused_with_the_fix():
    with pytest.raises(
        UserError, match=r"32 attention heads do not split 3 ways.*config\.mesh\.tensor a divisor of 32"
    ):
        param_shardings(_model("qwen3", "4b"), _tensor_mesh(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_declares_as_many_axes_as_it_has(family):
    model = _model(family, "tiny")
    shapes, axes = abstract_params(model), logical_axes(model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = axes
        for key in path:
            names = names[key.key]
        assert len(names) == len(leaf.shape), path


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_map_names_every_parameter_once(family):
    module = resolve("finemem_jax.models", family)
    presets = [module.PRESETS["tiny"], next(cfg for cfg in module.PRESETS.values() if not cfg.tie_word_embeddings)]
    paths = {
        "/".join(key.key for key in path)
        for cfg in presets
        for path, _ in jax.tree_util.tree_leaves_with_path(abstract_params(module.Model(cfg)))
    }
    assert sorted(module.TENSOR_MAP.values()) == sorted(paths)
