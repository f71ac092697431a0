"""The gate of the shipped warm starts: small, valid and able to copy, but far from the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.neighbours import tiny
from finemem_jax import main
from finemem_jax.config import UserError, resolve
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.settings import with_settings_of
from finemem_jax.env.tokenizer import embedded_path
from finemem_jax.evaluate import evaluate_policy
from finemem_jax.evaluation.records import episode_record, measures, record_metrics
from finemem_jax.loading import load_answerer, load_environment, load_policy

EPISODES = 48


def is_shipped(name):
    try:
        return bool(embedded_path(name))
    except UserError:
        return False


@pytest.fixture(scope="module")
def metrics():
    cfg = main.load_config("configs/quickstart.py", [])
    policy = load_policy(cfg)
    env = load_environment(cfg, policy.tokenizer)
    held_out = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "eval", 0)
    episodes = [held_out[i] for i in range(EPISODES)]
    engine = Engine(policy.model, policy.params, cfg.engine)
    answerer = load_answerer(cfg, Path("unused"))
    rollouts = evaluate_policy(engine, env, answerer, episodes, cfg, temperature=1.0)
    taken = measures(cfg, in_training=True)
    return record_metrics([episode_record(rollout, taken) for rollout in rollouts], taken, cfg)


def test_it_is_under_a_megabyte():
    assert sum(path.stat().st_size for path in Path(embedded_path("warm_start")).rglob("*")) < 2**20


@pytest.mark.slow
def test_its_operations_are_valid(metrics):
    """It writes no broken call and names no item that is not there. (It does repeat itself at times: memory refuses the
    duplicate of a valid call, which is for reinforcement learning to mend.)"""
    assert metrics["well_formed"] >= 0.98
    assert metrics["valid_operations"] >= 0.95


@pytest.mark.slow
def test_it_copies_exactly(metrics):
    assert metrics["exact_copy"] >= 0.90


@pytest.mark.slow
def test_it_uses_insert_and_update_and_leaves_room_to_learn(metrics):
    assert metrics["operations/memory_insert"] > 1 and metrics["operations/memory_update"] > 0.1
    assert 0.1 < metrics["accuracy"] < 0.6


# --------------------------------------------------------------------------------------------------------------
# Those of the neighbours, each by its own method (configs/neighbours/tiny_warm_start.py)
# --------------------------------------------------------------------------------------------------------------

NEIGHBOURS = [method for method in tiny.METHODS if is_shipped(f"warm_start_{method}")]


@pytest.mark.parametrize("method", NEIGHBOURS)
def test_one_of_a_neighbour_is_under_a_megabyte_and_knows_its_settings(method):
    folder = Path(embedded_path(f"warm_start_{method}"))
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 2**20
    cfg = main.load_config(f"configs/neighbours/tiny.py:{method}", [])
    assert with_settings_of(cfg, str(folder)) == cfg


@pytest.mark.slow
@pytest.mark.parametrize("method", NEIGHBOURS)
def test_one_of_a_neighbour_speaks_its_format_and_leaves_room_to_learn(method):
    cfg = main.load_config(f"configs/neighbours/tiny.py:{method}", [])
    policy = load_policy(cfg)
    env = load_environment(cfg, policy.tokenizer)
    held_out = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "eval", 0)
    engine, answerer = Engine(policy.model, policy.params, cfg.engine), load_answerer(cfg, Path("unused"))
    episodes = [held_out[i] for i in range(EPISODES)]
    rollouts = evaluate_policy(engine, env, answerer, episodes, cfg, temperature=1.0)
    taken = measures(cfg, in_training=True)
    metrics = record_metrics([episode_record(rollout, taken) for rollout in rollouts], taken, cfg)
    turns = [step for rollout in rollouts for step in rollout.steps]
    outcomes = [outcome.ok for step in turns for outcome in step.outcomes]
    assert sum(step.completion.finish != "length" for step in turns) >= 0.95 * len(turns)
    assert len(outcomes) >= 0.5 * len(turns) and sum(outcomes) >= 0.85 * len(outcomes)
    assert 0.05 < metrics["accuracy"] < 0.7 and metrics["memory_tokens"] > 3
