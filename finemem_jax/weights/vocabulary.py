"""A small model that can copy already, under a vocabulary of its own.

The shipped warm start learnt to copy under random permutations of its words, so its layers copy whatever the words'
embeddings are. A corpus with words of its own needs new embeddings, not new layers: with them the model copies lines it
has never seen to a good part, where one from random weights first has to discover copying, the longest part of a
warm start.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from transformers import PreTrainedTokenizerBase

from finemem_jax.config import UserError

VOCAB_MULTIPLE = 64  # a vocabulary that is built is rounded up to this


def vocabulary_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The fields of a model's config that belong to a tokenizer built here."""
    return {
        "vocab_size": -(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
        "eos_token_ids": (tokenizer.eos_token_id,),
        "pad_token_id": tokenizer.pad_token_id,
    }


def with_vocabulary(
    model: nn.Module, params: Any, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, seed: int
) -> tuple[nn.Module, Any]:
    """`model` with tied embeddings for the tokens of `new`, its other parameters as they are.

    Tokens that both tokenizers add to their words (scaffolding, item ids) keep their rows. Every other row is drawn
    from the normal distribution that the old words' rows have (mean and covariance)."""
    if not model.cfg.tie_word_embeddings:
        raise UserError("config.model.layers_from: its model has an output head of its own; it must be tied")
    table = params["embedding"]["table"]
    rows = np.asarray(table, np.float32)
    added_old, added_new = old.get_added_vocab(), new.get_added_vocab()
    words = rows[sorted(set(old.get_vocab().values()) - set(added_old.values()))]
    settings = vocabulary_settings(new)
    rng = np.random.default_rng([seed, len(new)])
    drawn = rng.multivariate_normal(words.mean(0), np.cov(words, rowvar=False), settings["vocab_size"])
    for token in added_old.keys() & added_new.keys():
        drawn[added_new[token]] = rows[added_old[token]]
    embedding = jax.device_put(drawn.astype(table.dtype), table.sharding)
    grown = type(model)(dataclasses.replace(model.cfg, **settings))
    return grown, {**params, "embedding": {"table": embedding}}
