"""No text at all: for a policy that remembers otherwise, in fast weights (`config.method.fast`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finemem_jax.config import MemoryConfig
from finemem_jax.types import CountTokens, Memory, MemoryItem, Operation, Outcome, ToolSpec

SPECS: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Nothing(Memory):
    @property
    def items(self) -> tuple[MemoryItem, ...]:
        return ()

    def tokens(self) -> int:
        return 0

    def apply(self, operation: Operation, step: int) -> tuple[Nothing, Outcome]:
        return self, Outcome(operation.error or f"malformed: unknown tool {operation.name[:40]!r}", ok=False)


def notes(items: Sequence[MemoryItem]) -> list[MemoryItem]:
    return []


def from_notes(
    operations: Sequence[Operation], notes: Sequence[MemoryItem], fits: Callable[[str], bool]
) -> list[Operation]:
    """Nothing: there is no tool to write with."""
    return []


def create(cfg: MemoryConfig, count_tokens: CountTokens) -> Nothing:
    return Nothing()
