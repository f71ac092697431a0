"""Checkpoints: a resumed run is the uninterrupted one, bit for bit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from finemem_jax.config import OptimizerConfig, UserError
from finemem_jax.nn.sharding import make_mesh
from finemem_jax.rl.train_state import TrainState, create_train_state, make_optimizer
from finemem_jax.weights.checkpoints import Checkpoints, checksum


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


def files_of(folder) -> list:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory, optimizer, update):
    """A folder with checkpoints of steps 1 and 2, and the states they hold."""
    folder = tmp_path_factory.mktemp("two") / "run"
    checkpoints = Checkpoints(folder, keep=3)
    older = update(fresh_state(optimizer))
    checkpoints.save(1, older, {"next_step": 1})
    expected = jax.tree.map(np.asarray, older)
    newer = update(older)
    checkpoints.save(2, newer, {"next_step": 2})
    checkpoints.wait()
    return folder, expected, jax.tree.map(np.asarray, newer)


def test_a_checkpoint_is_ocdbt_and_an_item_each_for_parameters_and_optimizer(two_checkpoints):
    folder, _, _ = two_checkpoints
    for item in ("params", "optimizer"):
        assert (folder / "2" / item / "manifest.ocdbt").is_file()


def damage(path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # one bit, in the middle of the file
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :])


@pytest.mark.parametrize("how", ["missing", "cut off", "empty", "a flipped bit"])
def test_any_damaged_file_of_the_newest_checkpoint_is_harmless_or_costs_that_checkpoint(
    how, two_checkpoints, optimizer, tmp_path, capfd
):
    """Whatever happens to any one file: the state that comes back is that of step 2 or of step 1, bit for bit."""
    folder, older, newer = two_checkpoints
    losses = 0
    for victim in files_of(folder / "2"):
        copy = tmp_path / "run"
        shutil.copytree(folder, copy)
        damage(copy / victim.relative_to(folder), how)
        state, note = Checkpoints(copy, keep=3).restore(fresh_state(optimizer))
        said = capfd.readouterr().err
        if note["next_step"] == 2:
            assert_equal_states(state, newer)
            assert (copy / "2").is_dir()
        else:
            losses += 1
            assert_equal_states(state, older)
            assert "WARNING: the checkpoint of step 2" in said and "going on from step 1" in said
            assert not (copy / "2").exists() and (tmp_path / "damaged" / "2").is_dir()
            shutil.rmtree(tmp_path / "damaged")
        shutil.rmtree(copy)
    assert losses >= 4  # the data and the manifests of both items, at least


def test_a_flipped_bit_that_orbax_does_not_see_is_seen(two_checkpoints, optimizer, tmp_path):
    """Without the checksum the parameters would come back changed: the file still decodes."""
    folder, _, newer = two_checkpoints
    unseen = 0
    for victim in files_of(folder / "2" / "params" / "ocdbt.process_0" / "d"):
        copy = tmp_path / "run"
        shutil.copytree(folder, copy)
        damage(copy / victim.relative_to(folder), "a flipped bit")
        manager = ocp.CheckpointManager(copy, item_names=("params", "optimizer", "extra"))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, fresh_state(optimizer).params)
        try:
            raw = manager.restore(2, args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract)))["params"]
        except Exception:
            raw = None
        if raw is not None and not np.array_equal(np.asarray(raw["mlp"]["kernel"]), newer.params["mlp"]["kernel"]):
            unseen += 1
            step, _ = Checkpoints(copy, keep=3, read_only=True).restore_params_at(fresh_state(optimizer).params)
            assert step == 1
        shutil.rmtree(copy)
    assert unseen or all(p.stat().st_size < 1024 for p in files_of(folder / "2" / "params"))


def test_a_folder_where_every_checkpoint_is_damaged_is_a_clear_error(two_checkpoints, optimizer, tmp_path):
    folder, _, _ = two_checkpoints
    shutil.copytree(folder, tmp_path / "run")
    for step in ("1", "2"):
        (tmp_path / "run" / step / "params" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read into this model \(steps 2, 1\)"):
        Checkpoints(tmp_path / "run", keep=3).restore(fresh_state(optimizer))


def test_the_best_by_score_are_kept_beside_the_newest(tmp_path, optimizer):
    checkpoints = Checkpoints(tmp_path / "run", keep=1, keep_best=1, scores={1: 0.5})
    state = fresh_state(optimizer)
    for step in range(1, 6):
        checkpoints.save(step, state, {})
        if step == 2:
            checkpoints.score(2, 0.9)  # evaluated after it was saved
    checkpoints.wait()
    assert checkpoints.steps() == [2, 5] and checkpoints.best() == 2
    checkpoints.score(5, 1.0)
    assert checkpoints.best() == 5
    with pytest.raises(UserError, match=r"no checkpoint of step 3 .*\[2, 5\]"):
        checkpoints.restore_params(state.params, step=3)


def test_the_checksum_changes_with_any_element_and_not_with_the_mesh():
    tree = {"a": jnp.arange(24.0).reshape(4, 6), "b": jnp.ones((3,), jnp.bfloat16), "step": jnp.int32(7)}
    one = checksum(tree)
    for i in range(24):
        changed = np.arange(24, dtype=np.float32)
        changed[i] = np.nextafter(changed[i], np.float32(100))
        assert checksum(tree | {"a": jnp.array(changed.reshape(4, 6))}) != one
    assert checksum(tree | {"a": tree["a"][::-1]}) != one
    assert checksum(tree | {"step": jnp.int32(8)}) != one
    sharded = jax.device_put(tree["a"], NamedSharding(make_mesh(data=4, fsdp=2), PartitionSpec("data", "fsdp")))
    assert checksum(tree | {"a": sharded}) == one


FULL_DISK = """
import resource, sys
import jax, jax.numpy as jnp
from finemem_jax.config import OptimizerConfig
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.weights.checkpoints import Checkpoints, SaveFailed

optimizer = make_optimizer(OptimizerConfig(), updates=2)
def state(seed):
    return create_train_state({"kernel": jax.random.normal(jax.random.key(seed), (200, 200))}, optimizer)

checkpoints = Checkpoints(sys.argv[1], keep=2)
checkpoints.save(1, state(1), {"next_step": 1})
checkpoints.wait()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
try:
    checkpoints.save(2, state(2), {"next_step": 2})
    checkpoints.wait()
    sys.exit("the disk is not full")
except SaveFailed as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert checkpoints.steps() == [1], checkpoints.steps()
checkpoints.save(3, state(3), {"next_step": 3})
checkpoints.wait()
restored, note = checkpoints.restore(state(0))
assert note == {"next_step": 3} and (restored.params["kernel"] == state(3).params["kernel"]).all()
"""


def test_a_checkpoint_that_meets_a_full_disk_leaves_the_one_before_and_a_clear_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the checkpoint of step 2 could not be written (File too large)" in done.stdout
    assert "the newest is that of step 1, intact" in done.stdout
    assert not [path.name for path in (tmp_path / "run").iterdir() if "tmp" in path.name]
