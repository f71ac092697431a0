"""What the writing turns do.

valid_operations   share of the operations written that were well-formed and applied
well_formed        share that were well-formed and named an item in view, whether or not memory took them
exact_copy         share of the contents written that are, word for word, a line of their chunk
operations/NAME    operations of each kind per step, counted if they applied
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from finemem_jax.config import Config
from finemem_jax.types import WRITE, Rollout

IN_TRAINING = True
COLUMNS = {"valid_operations": ".3f", "exact_copy": ".3f"}
TABLE = ""


def record(rollout: Rollout, has_model: bool) -> dict:
    counts: Counter[str] = Counter()
    applied: Counter[str] = Counter()
    for step in rollout.of(WRITE):
        lines = [] if step.chunk is None else rollout.episode.chunks[step.chunk].text.splitlines()
        for operation, outcome in zip(step.operations, step.outcomes, strict=True):
            counts["written"] += 1
            counts["valid"] += outcome.ok
            counts["well_formed"] += not outcome.status.startswith(("malformed", "unknown id"))
            applied[operation.name] += outcome.ok
            if "content" in operation.arguments:
                counts["contents"] += 1
                counts["copies"] += operation.arguments["content"] in lines
    return {"steps": len(rollout.of(WRITE)), **counts, "applied": dict(+applied)}


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    def total(name: str) -> int:
        return sum(found.get(name, 0) for found in records)

    def share(part: str, whole: str) -> float:
        return total(part) / total(whole) if total(whole) else 0.0

    applied: Counter[str] = Counter()
    for found in records:
        applied.update(found["applied"])
    return {
        "valid_operations": share("valid", "written"),
        "well_formed": share("well_formed", "written"),
        "exact_copy": share("copies", "contents"),
        **{f"operations/{name}": count / max(total("steps"), 1) for name, count in sorted(applied.items())},
    }
