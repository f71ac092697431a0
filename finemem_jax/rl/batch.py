"""What the device knows of rollouts: tokens, weights and advantages. No rewards, no groups."""

from __future__ import annotations

import flax.struct
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class RolloutBatch:
    """Packed training rows. Every field has the same leading axes: [rows, seq], or [microbatches, rows, seq].

    A row holds several sequences (prompt and completion), told apart by `segment_ids`; 0 is padding.
    Field values at index t are about `tokens[b, t]` itself, given the tokens before it.
    """

    tokens: Int[Array, "*rows seq"]
    positions: Int[Array, "*rows seq"]  # restart at 0 in each segment
    segment_ids: Int[Array, "*rows seq"]  # from 1 in each row
    old_logprobs: Float[Array, "*rows seq"]  # of the policy that sampled; 0 on prompts and padding
    ref_logprobs: Float[Array, "*rows seq"] | None  # of the reference; None when the KL coefficient is 0
    token_weights: Float[Array, "*rows seq"]  # share of each token in the loss, normalised over the whole mini-batch
    advantages: Float[Array, "*rows seq"]  # of the sequence the token belongs to; unitless
