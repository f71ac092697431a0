"""One training example of the warm start, and a batch of them as packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finemem_jax.config import Config, LossConfig
from finemem_jax.hosts import agreement
from finemem_jax.rollouts import packing
from finemem_jax.rollouts.packing import Lengths, TrainSequence, longest_row

ROW_STEP = 32  # tokens: candidates for the length of a row lie so far apart
WORTH = 1.02  # a longer row is taken for at least this much less to compute: attention costs the square of its length


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence; the loss is on the completion alone, its end-of-turn token included."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Batch:
    """The packed rows of a batch, and what is logged of it."""

    rows: packing.PackedRows  # this process's
    examples: int  # of all processes; those too long for a row are left out
    too_long: int
    tokens: int
    padding_share: float


def pack_examples(examples: Sequence[Example], cfg: Config, row_tokens: int) -> Batch:
    """A batch of examples as rows of `row_tokens` tokens, or of the longest that there can be where one does not fit.

    The loss is the mean negative log-likelihood of their completion tokens. Every process draws the same batch and
    packs its share of it."""
    limit = longest_row(cfg)
    sequences = [TrainSequence(e.prompt, e.completion, (0.0,) * len(e.completion)) for e in examples if len(e) <= limit]
    processes = agreement.process_count()
    shares = [sequences[process::processes] for process in range(processes)]
    layout = packing.lay_out(
        [[Lengths(len(s.prompt), len(s.completion)) for s in share] for share in shares],
        limit,
        row_tokens=row_tokens if max(map(len, sequences), default=0) <= row_tokens else limit,
        microbatch_rows=cfg.train.microbatch_rows,
        multiple=cfg.mesh.sequence,
    )
    rows = [
        [(shares[row.owner][index], 0.0) for index in row.members] for row in layout.rows[agreement.process_index()]
    ]
    packed = packing.pack_layout(rows, layout, LossConfig(aggregation="token_mean"), cfg.train.microbatch_rows)
    tokens = sum(map(len, sequences))
    return Batch(packed, len(sequences), len(examples) - len(sequences), tokens, layout.padding_share)


def choose_row_tokens(batches: Sequence[Sequence[Example]], cfg: Config) -> int:
    """Length of the rows of a stage, for which batches like `batches` leave the least padding;
    `config.train.row_tokens` where that is set.

    One length for a whole stage: each that is used costs a compilation of the update. A batch with a longer example
    falls back on the longest row."""
    limit = longest_row(cfg)
    lengths = [[len(example) for example in batch if len(example) <= limit] for batch in batches]
    longest = max((length for batch in lengths for length in batch), default=limit)
    if cfg.train.row_tokens or longest >= limit:
        return limit
    step = max(ROW_STEP, (limit - longest) // ROW_STEP // ROW_STEP * ROW_STEP)
    rows = cfg.train.microbatch_rows * agreement.process_count()
    best, least = limit, _computed(lengths, limit, rows)
    for row_tokens in reversed(range(-(-longest // ROW_STEP) * ROW_STEP, limit, step)):
        computed = _computed(lengths, row_tokens, rows)
        if computed <= least * WORTH:
            best, least = row_tokens, min(least, computed)
    return best


def _computed(batches: Sequence[Sequence[int]], row_tokens: int, microbatch_rows: int) -> int:
    """Positions that are computed for all batches: whole microbatches of rows of `row_tokens` tokens."""
    rows = sum(-(-len(packing.assign_rows(lengths, row_tokens)) // microbatch_rows) for lengths in batches)
    return rows * microbatch_rows * row_tokens
