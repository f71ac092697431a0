"""Benchmarks: one file each, which exports

    load(cfg: DataConfig, split: str, seed: int) -> Sequence[Episode]

split: "train" (in an order fixed by `seed`) or "eval". The folder is the registry: a new file is a new
`config.data.name`. Files whose name starts with "_" are shared parts.
"""

from finemem_jax.corpora._sources import contamination, only_a_judge_can_score, with_reference_metrics

__all__ = ["contamination", "only_a_judge_can_score", "with_reference_metrics"]

EXPORTS = ("load()",)
