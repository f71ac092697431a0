"""Rows of training examples: little padding, few shapes, every example once."""

from __future__ import annotations

import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.imitation.examples import Example, choose_row_tokens, pack_examples
from finemem_jax.rollouts.packing import longest_row

LIMIT = 2048 + 256


@pytest.fixture(scope="module")
def cfg():
    options = ["prompt.max_prompt_tokens=2048", "prompt.max_completion_tokens=256", "engine.cache_tokens=2304"]
    return main.load_config(
        "configs/quickstart.py", [f"--config.{option}" for option in [*options, "train.microbatch_rows=8"]]
    )


def batches(count, longest, seed=0):
    """Batches of 32 examples of 150 to `longest` tokens."""
    rng = np.random.default_rng(seed)

    def example():
        total = int(rng.integers(150, longest + 1))
        return Example(tuple(rng.integers(1, 99, total - 40)), tuple(rng.integers(1, 99, 40)))

    return [[example() for _ in range(32)] for _ in range(count)]


def test_several_examples_share_a_row_and_little_of_it_is_padding(cfg):
    row_tokens = choose_row_tokens(batches(8, 420), cfg)
    assert row_tokens < LIMIT / 2
    packed = [pack_examples(batch, cfg, row_tokens) for batch in batches(8, 420, seed=1)]
    assert np.mean([batch.padding_share for batch in packed]) < 0.2
    # Rows of the longest example there can be, as they were before, are mostly padding.
    assert np.mean([pack_examples(batch, cfg, LIMIT).padding_share for batch in batches(8, 420)]) > 0.4
    assert len({batch.rows.tokens.shape for batch in packed}) <= 2


def test_every_example_is_in_a_batch_once_and_its_completion_alone_is_trained(cfg):
    (batch,) = batches(1, 420)
    packed = pack_examples(batch, cfg, choose_row_tokens([batch], cfg))
    rows = packed.rows
    found = []
    for micro, row in np.ndindex(rows.tokens.shape[:2]):
        for segment in range(1, rows.segment_ids[micro, row].max() + 1):
            at = rows.segment_ids[micro, row] == segment
            tokens, is_trained = rows.tokens[micro, row][at], rows.token_weights[micro, row][at] > 0
            found.append((tuple(tokens[~is_trained].tolist()), tuple(tokens[is_trained].tolist())))
    assert sorted(found) == sorted((e.prompt, e.completion) for e in batch)
    assert rows.token_weights.sum() == pytest.approx(1)
    assert (packed.examples, packed.too_long, packed.tokens) == (32, 0, sum(map(len, batch)))


def test_a_longer_example_than_those_the_rows_were_chosen_for_takes_the_longest_row(cfg):
    (batch,) = batches(1, 420)
    row_tokens = choose_row_tokens([batch], cfg)
    one = Example(tuple(range(1, 1500)), (1, 2))
    packed = pack_examples([*batch, one], cfg, row_tokens)
    assert packed.rows.tokens.shape[-1] == longest_row(cfg) == LIMIT and packed.examples == 33
    too_long = Example(tuple(range(LIMIT)), (1,))
    packed = pack_examples([*batch, too_long], cfg, row_tokens)
    assert packed.rows.tokens.shape[-1] == row_tokens and (packed.examples, packed.too_long) == (32, 1)
