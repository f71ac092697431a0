"""Roles with adapters of their own: each token is read with its role's, in the model, the engine, update and export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax import config
from finemem_jax.config import EngineConfig, LoraConfig, LossConfig, OptimizerConfig, UserError, resolve
from finemem_jax.decoding.engine import Engine
from finemem_jax.decoding.pages import Pages
from finemem_jax.env.turns import adapter_of
from finemem_jax.export import save_policy
from finemem_jax.loading import Policy
from finemem_jax.nn import lora
from finemem_jax.nn.sharding import init_params
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_train_step
from finemem_jax.rollouts.groups import _lengths
from finemem_jax.rollouts.packing import TrainSequence, pack_rollouts, to_device
from finemem_jax.types import ANSWER, WRITE, Sampling
from finemem_jax.weights import hf
from tests import fakes

ROLES, SEQ, VOCAB = (WRITE, ANSWER), 24, 61
LOSS = LossConfig(kl_coef=0.0)


@pytest.fixture(scope="module")
def adapted():
    """(model, params whose two adapters do different things, the model without adapters, the merged params of each)."""
    module = resolve("finemem_jax.models", "qwen3")
    settings = LoraConfig(rank=4, alpha=6.0, targets=("q_proj", "o_proj", "down_proj"), roles=ROLES)
    cfg = dataclasses.replace(module.PRESETS["tiny"], vocab_size=VOCAB, num_layers=2, lora=settings)
    model = module.Model(cfg)
    params = init_params(model, jax.random.key(0))
    base, adapters = lora.split_adapters(params)
    base = jax.tree.map(lambda p: p * 2.0 if p.ndim > 1 else p, base)
    moved = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), adapters)
    params = lora.join_adapters(base, moved)
    merged = [lora.merge_adapters(model, lora.of_role(model, params, number)) for number in range(2)]
    return model, params, module.Model(dataclasses.replace(cfg, lora=LoraConfig())), merged


def test_each_token_of_a_row_is_read_with_its_own_adapter_as_with_the_merged_models(adapted):
    model, params, plain, merged = adapted
    assert params["layers"]["attention"]["q_proj"]["lora"]["a"].shape == (2, 2, 64, 4)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, SEQ))
    split = np.array([10, 17])[:, None]  # two sequences a row, of two roles in either order
    second = (np.arange(SEQ) >= split).astype(np.int32)
    positions = np.arange(SEQ) - second * split
    adapter = np.where(np.arange(2)[:, None] == 0, second, 1 - second)
    inputs = (tokens, positions, second + 1)
    found = np.asarray(jax.jit(model.apply)({"params": params}, *inputs, adapter=adapter))
    apply = jax.jit(plain.apply)
    own = [np.asarray(apply({"params": of_role}, *inputs)) for of_role in merged]
    assert np.abs(own[0] - own[1]).max() > 0.1
    np.testing.assert_allclose(found, np.where(adapter[..., None] == 0, own[0], own[1]), atol=2e-5)
    reference = lora.without_adapters(params)
    np.testing.assert_allclose(
        model.apply({"params": reference}, *inputs, adapter=adapter), apply({"params": reference}, *inputs), atol=1e-5
    )
    with pytest.raises(ValueError, match="say whose each row is"):
        model.apply({"params": params}, *inputs)
    with pytest.raises(UserError, match="per role"):
        lora.merge_adapters(model, params)


def test_equal_prompts_of_two_adapters_share_no_page_and_each_has_its_own_completions(adapted):
    model, params, plain, merged = adapted
    prompt, cfg = tuple(range(1, 20)), EngineConfig(slots=4, cache_tokens=32, page_tokens=8, decode_chunk=4)
    engine, sampling = Engine(model, params, cfg), Sampling(max_tokens=8)
    keys = np.zeros((4, 1), np.uint32)
    found = engine.generate([prompt] * 4, sampling, keys, adapters=[0, 1, 0, 1])
    assert engine.stats.prefilled_tokens == 2 * (len(prompt) - 1)  # once for each adapter
    assert found[0] == found[2] and found[1] == found[3] and found[0].tokens != found[1].tokens
    alone = Engine(plain, merged[0], cfg)
    for number in range(2):
        alone.set_params(merged[number])
        (expected,) = alone.generate([prompt], sampling, keys[:1])
        assert found[number].tokens == expected.tokens
        np.testing.assert_allclose(found[number].logprobs, expected.logprobs, atol=1e-4)


def test_a_page_is_known_to_its_adapter_alone():
    pages, tokens = Pages(12, 4), list(range(8))
    first, second = pages.take(2), pages.take(2)
    pages.name(first, tokens, 0)
    assert pages.share(tokens, 1) == []
    pages.name(second, tokens, 1)
    assert (pages.share(tokens, 0), pages.share(tokens, 1)) == (first, second)


@pytest.fixture(scope="module")
def update(adapted):
    """(jitted update, a state, sequences of both roles)."""
    model, params, *_ = adapted
    optimizer = make_optimizer(OptimizerConfig(lr=1e-2, max_grad_norm=0.0, weight_decay=0.1), 4)
    rng = np.random.default_rng(1)
    made = [
        TrainSequence(
            rng.integers(1, VOCAB, 5).tolist(),
            rng.integers(1, VOCAB, n).tolist(),
            rng.normal(-4, 0.5, n),
            adapter=number % 2,
        )
        for number, n in enumerate((6, 7, 4, 5))
    ]
    return (
        make_train_step(model, optimizer, LOSS, chunk=16),
        lambda: create_train_state(copied(params), optimizer),
        made,
    )


def copied(tree):
    return jax.tree.map(jnp.copy, tree)


def updated(update, advantages):
    """What a step makes of the adapters, by role; a sequence without advantage (NaN) is not in the batch."""
    step, state, made = update
    totals = pack_rollouts(made, np.ones(4), LOSS, row_tokens=SEQ, microbatch_rows=2)
    rows = pack_rollouts(made, np.array(advantages), LOSS, row_tokens=SEQ, microbatch_rows=2)
    if np.isnan(advantages).any():  # divided by what the whole batch is divided by
        weights = rows.token_weights * (totals.token_weights.max() / rows.token_weights.max())
        rows = dataclasses.replace(rows, token_weights=weights)
    after, _ = step(state(), to_device(rows, roles=ROLES))
    moments = jax.tree.leaves(after.opt_state)
    adapters = jax.tree.leaves(lora.split_adapters(after.params)[1])
    return [[np.asarray(x[:, number]) for x in [*adapters, *moments] if x.ndim == 4] for number in range(2)]


def test_a_mixed_batch_updates_each_adapter_as_a_batch_of_its_own_and_no_other(adapted, update):
    together = updated(update, [1.0, -0.5, 0.7, 2.0])
    before = [[np.asarray(x[:, n]) for x in jax.tree.leaves(lora.split_adapters(adapted[1])[1])] for n in range(2)]
    for number, advantages in enumerate([[1.0, np.nan, 0.7, np.nan], [np.nan, -0.5, np.nan, 2.0]]):
        alone = updated(update, advantages)
        for found, expected in zip(together[number], alone[number], strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-4)
        other = 1 - number
        count = len(before[other])
        for found, expected in zip(alone[other], before[other], strict=False):  # not even weight decay
            np.testing.assert_array_equal(found, expected)
        assert not any(moment.any() for moment in alone[other][count:])
        assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(together[number], before[number], strict=False))


def test_rows_say_whose_each_token_is(update):
    _, _, made = update
    rows = pack_rollouts(made, np.ones(4), LOSS, row_tokens=SEQ, microbatch_rows=2)
    weighed = rows.token_weights > 0
    assert {int(n) for n in rows.adapter[weighed]} == {0, 1}
    assert sum(len(s.completion) for s in made if s.adapter) == int((weighed & (rows.adapter == 1)).sum())
    assert to_device(rows).adapter is None


def test_turns_of_two_roles_at_one_index_share_no_prefix():
    one, other = fakes.rollout([["a"]]), fakes.rollout([["a"]])
    (step,) = other.steps
    group = [one, dataclasses.replace(other, steps=(dataclasses.replace(step, role=ANSWER),))]
    assert _lengths(0, [one, one], True)[0][0].shared == 1
    assert _lengths(0, group, True)[0][0].shared == 0


def test_roles_are_two_or_more_each_once_and_every_turn_has_one():
    assert [adapter_of(role, ROLES) for role in ROLES] == [0, 1] and adapter_of("search", ()) == 0
    with pytest.raises(UserError, match=r"model\.lora\.roles.* no adapter for turns of the role 'search'"):
        adapter_of("search", ROLES)
    for roles, rank in ((("write",), 4), (("write", "write"), 4), (ROLES, 0)):
        cfg = config.Config(model=config.ModelConfig(lora=LoraConfig(rank=rank, roles=roles)))
        with pytest.raises(UserError, match=r"config\.model\.lora\.roles="):
            config.validate(cfg)


def test_every_role_is_exported_to_a_folder_of_its_own(adapted, tmp_path):
    model, params, plain, merged = adapted
    policy = Policy(None, model, params)
    save_policy(config.Config(), tmp_path / "hf", policy, params)
    save_policy(config.Config(), tmp_path / "peft", policy, params, peft=True)
    tokens = np.random.default_rng(2).integers(0, VOCAB, (1, SEQ))
    inputs = (tokens, np.arange(SEQ)[None], np.ones((1, SEQ), np.int32))
    for number, role in enumerate(ROLES):
        loaded, own = hf.load_pretrained(tmp_path / "hf" / role)
        expected = plain.apply({"params": merged[number]}, *inputs)
        np.testing.assert_allclose(loaded.apply({"params": own}, *inputs), expected, atol=2e-5)
        assert (tmp_path / "peft" / role / "adapter_model.safetensors").is_file()
