"""Checkpoints: a resumed run is the uninterrupted one, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from finemem_jax.config import OptimizerConfig, UserError
from finemem_jax.nn.sharding import make_mesh
from finemem_jax.rl.train_state import TrainState, create_train_state, make_optimizer
from finemem_jax.weights.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def optimizer():
    return make_optimizer(OptimizerConfig(lr=0.1, bf16_momentum=True), updates=20)


@pytest.fixture(scope="module")
def update(optimizer):
    """A small training step with the real optimizer and donation; its gradient depends on the parameters."""

    def step(state: TrainState) -> TrainState:
        gradient = jax.tree.map(lambda p: jnp.sin(p) + 0.1, state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return TrainState(state.step + 1, jax.tree.map(jnp.add, state.params, updates), opt_state)

    return jax.jit(step, donate_argnums=0)


def fresh_state(optimizer) -> TrainState:
    params = {"mlp": {"kernel": jnp.arange(512.0).reshape(16, 32)}, "norm": {"scale": jnp.ones((32,), jnp.bfloat16)}}
    return create_train_state(params, optimizer)


def assert_equal_states(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, optimizer, update):
    state = fresh_state(optimizer)
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    for step in range(6):
        if step == 3:
            checkpoints.save(step, state, {"next_step": step, "stream": [1, 2]})
        state = update(state)  # donates the state that is being saved
    checkpoints.wait()

    resumed, extra = Checkpoints(tmp_path / "run", keep=2).restore(fresh_state(optimizer))
    assert extra == {"next_step": 3, "stream": [1, 2]}
    assert int(resumed.step) == 3
    for _ in range(3):
        resumed = update(resumed)
    assert_equal_states(resumed, state)


def test_only_the_newest_are_kept_and_params_restore_alone(tmp_path, optimizer, update):
    state = fresh_state(optimizer)
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    assert checkpoints.latest() is None
    for step in range(4):
        checkpoints.save(step, state, {})
        state = update(state)
    checkpoints.wait()
    assert checkpoints.latest() == 3
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.is_dir()) == ["2", "3"]

    replayed = fresh_state(optimizer)
    for _ in range(3):
        replayed = update(replayed)
    params = checkpoints.restore_params(fresh_state(optimizer).params)
    assert_equal_states(params, replayed.params)


def test_saving_a_step_again_replaces_it(tmp_path, optimizer, update):
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    checkpoints.save(1, fresh_state(optimizer), {"try": 1})
    checkpoints.save(1, update(fresh_state(optimizer)), {"try": 2})
    state, extra = checkpoints.restore(fresh_state(optimizer))
    assert extra == {"try": 2}
    assert int(state.step) == 1


def test_an_unfinished_checkpoint_is_not_seen(tmp_path, optimizer):
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    checkpoints.save(1, fresh_state(optimizer), {})
    checkpoints.wait()
    (tmp_path / "run" / "2.orbax-checkpoint-tmp-7").mkdir()
    assert Checkpoints(tmp_path / "run", keep=2).latest() == 1


def test_a_missing_checkpoint_is_named(tmp_path, optimizer):
    with pytest.raises(UserError, match=r"no checkpoint in .*empty"):
        Checkpoints(tmp_path / "empty", keep=1).restore(fresh_state(optimizer))


def test_a_checkpoint_restores_onto_another_mesh(tmp_path, optimizer, update):
    state = update(fresh_state(optimizer))
    expected = np.asarray(state.params["mlp"]["kernel"])
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    checkpoints.save(1, state, {})
    sharding = NamedSharding(make_mesh(data=1, fsdp=8), PartitionSpec("fsdp", None))
    params = fresh_state(optimizer).params
    params["mlp"]["kernel"] = jax.device_put(params["mlp"]["kernel"], sharding)
    restored = checkpoints.restore_params(params)
    assert restored["mlp"]["kernel"].sharding == sharding
    np.testing.assert_array_equal(np.asarray(restored["mlp"]["kernel"]), expected)
