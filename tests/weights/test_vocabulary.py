"""Layers that can copy go on copying under a vocabulary they have never seen."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.config import UserError, resolve
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.tokenizer import ITEM_IDS, build_tiny
from finemem_jax.imitation.examples import pack_examples
from finemem_jax.imitation.exercises import Exercises
from finemem_jax.loading import load_environment, load_policy
from finemem_jax.nn.sharding import init_params
from finemem_jax.plan.formula import model_shape
from finemem_jax.rl.logprobs import token_logprobs
from finemem_jax.rollouts import packing
from finemem_jax.weights.vocabulary import with_vocabulary

WORDS = ["quokka zeppelin marzipan obelisk", "turnstile gazebo => lantern"]


@pytest.fixture(scope="module")
def warm_start():
    return load_policy(main.load_config("configs/quickstart.py", [])), tokenizers.load("embedded:warm_start")


def test_what_both_tokenizers_add_keeps_its_rows_and_every_other_row_is_its_own(warm_start):
    policy, old = warm_start
    new = build_tiny(WORDS)
    model, params = with_vocabulary(policy.model, policy.params, old, new, seed=0)
    table, before = np.asarray(params["embedding"]["table"]), np.asarray(policy.params["embedding"]["table"])
    assert table.shape == (model.cfg.vocab_size, model.cfg.hidden_size) and model.cfg.vocab_size >= len(new)
    for token in (*ITEM_IDS, new.eos_token):
        assert (table[new.convert_tokens_to_ids(token)] == before[old.convert_tokens_to_ids(token)]).all()
    assert len(np.unique(table, axis=0)) == len(table)
    assert model.cfg.eos_token_ids == (new.eos_token_id,)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params["layers"], policy.params["layers"])
    assert all(jax.tree.leaves(same))


def test_lines_of_new_words_are_copied_far_better_than_by_a_random_model(warm_start):
    policy, old = warm_start
    cfg = main.load_config("configs/warm_start.py", ["--config.sft.pool=8", "--config.mesh.data=1"])
    new = build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences(), subwords=400)
    model, params = with_vocabulary(policy.model, policy.params, old, new, seed=0)
    env = load_environment(cfg, new)
    exercises = Exercises(cfg, env, resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0))
    examples = list(itertools.islice(exercises.stream("copy_random", np.random.default_rng(0)), 16))
    batch = packing.to_device(pack_examples(examples, cfg, cfg.train.row_tokens).rows, None)
    tokens, positions, segments = (
        a.reshape(-1, a.shape[-1]) for a in (batch.tokens, batch.positions, batch.segment_ids)
    )
    weights = np.asarray(batch.token_weights).reshape(tokens.shape)

    @jax.jit
    def logprobs(values):
        return token_logprobs(model, values, tokens, positions, segments)

    copying, random = (
        float((np.asarray(logprobs(values)) * weights).sum() / weights.sum())
        for values in (params, init_params(model, jax.random.key(0), None))
    )
    assert copying > random + 3  # nats per token


def test_a_model_with_a_head_of_its_own_is_refused(warm_start):
    policy, old = warm_start
    untied = type(policy.model)(dataclasses.replace(policy.model.cfg, tie_word_embeddings=False))
    with pytest.raises(UserError, match=r"config\.model\.layers_from"):
        with_vocabulary(untied, policy.params, old, old, seed=0)


def test_layers_are_taken_only_for_a_tokenizer_that_is_built():
    given = ["--config.model.path=", "--config.model.layers_from=embedded:warm_start", "--config.model.tokenizer=gpt2"]
    with pytest.raises(UserError, match="allowed are tiny, corpus"):
        main.load_config("configs/quickstart.py", given)


def test_memory_is_estimated_for_the_model_whose_layers_are_taken():
    cfg = main.load_config("configs/real_text.py", [])
    assert (
        model_shape(cfg).num_layers == load_policy(main.load_config("configs/quickstart.py", [])).model.cfg.num_layers
    )
