"""What the device knows of rollouts: tokens, weights and advantages. No rewards, no groups."""

from __future__ import annotations

from typing import Any

import flax.struct

from finemem_jax.nn.typed import Tree


@flax.struct.dataclass
class RolloutBatch(Tree):
    """Packed training rows. Every field has the same leading axes: [rows, seq], or [microbatches, rows, seq].

    A row holds several sequences (prompt and completion), told apart by `segment_ids`; 0 is padding.
    Field values at index t are about `tokens[b, t]` itself, given the tokens before it. The leaves may also be
    shapes or shardings of such arrays.
    """

    tokens: Any  # int32
    positions: Any  # int32, restart at 0 in each segment
    segment_ids: Any  # int32, from 1 in each row
    old_logprobs: Any  # float32, of the policy that sampled; 0 on prompts and padding
    ref_logprobs: Any  # float32, of the reference; None when the KL coefficient is 0
    token_weights: Any  # float32, share of each token in the loss, normalised over the whole mini-batch
    advantages: Any  # float32, of the sequence the token belongs to; unitless
    # B that all sequences of a row were sampled under (nn/fast_weights.py): projection -> [rows, layers, rank, out]
    # float32, with a leading axis of microbatches likewise; None in a run without fast weights
    fast: Any = None
    # int32, number of the adapter of the sequence that the token belongs to; None where all share one, or have none
    adapter: Any = None
