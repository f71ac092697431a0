"""What goes into an engine and what comes out: requests, the episodes that make them, statistics."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finemem_jax.types import ROLES, Lesson, Sampling


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be sampled. `key`: words that make its randomness its own, e.g. (seed, step, group, …).
    `name`: what to call it in an error. `ends`: (tokens so far, how many of them were looked at before) -> after how
    many of them the completion is over, 0 where it goes on; asked on the host, which sees them call by call.
    `fast`: number of the fast weights it is sampled under; 0 = none. `adapter`: of the adapter, where roles have their
    own."""

    prompt: tuple[int, ...]
    sampling: Sampling
    key: tuple[int, ...]
    name: str = ""
    ends: Callable[[Sequence[int], int], int] | None = None
    fast: int = 0
    adapter: int = 0

    @property
    def weights(self) -> int:
        """A number for all weights that it is read with: others have another."""
        return self.fast * len(ROLES) + self.adapter

    def __str__(self) -> str:
        return f"{self.name or 'the request'} with key {self.key}"


@dataclass(frozen=True, slots=True)
class Update:
    """A write into fast weights: those numbered `fast` (0 = none: zeros) learn the lessons, and become others."""

    lessons: tuple[Lesson, ...]
    fast: int = 0
    name: str = ""


# A request is sent its Completion, an update what came of it, a Written.
Episode = Generator[Request | Update, Any, Any]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Stands for the result of an episode whose request was cancelled."""

    request: Request


class EpisodesFailed(Exception):
    """Some episodes raised; all others were driven to their ends.

    failures: (index, name, error) of each. results: those of `Engine.run`, None where an episode failed.
    """

    def __init__(self, failures: Sequence[tuple[int, str, Exception]], results: list[Any]):
        self.failures, self.results = list(failures), results
        named = "; ".join(f"{name}: {type(error).__name__}: {error}" for _, name, error in failures)
        super().__init__(f"{len(failures)} of {len(results)} episodes failed, the others finished: {named}")


@dataclass(slots=True)
class EngineStats:
    """What the engine did since the last `reset_stats`. Times in seconds of wall clock."""

    completions: int = 0
    prompt_tokens: int = 0  # of all requests
    prefilled_tokens: int = 0  # really run: what no page held; padding not counted
    sampled_tokens: int = 0
    decode_steps: int = 0
    slot_steps: int = 0  # decode steps times rows
    prefill_calls: int = 0
    decode_calls: int = 0
    updates: int = 0  # writes into fast weights
    update_calls: int = 0
    preemptions: int = 0  # requests whose pages were taken for older ones, and that went on later
    device_seconds: float = 0.0  # from the first device call of a round to its last result
    overlapped_seconds: float = 0.0  # of these, the host was at work as well
    prefill_seconds: float = 0.0  # of these, prefill; only measured where `Engine.is_timed`
    host_seconds: float = 0.0  # everything else: the device had nothing to do
    shapes: set = field(default_factory=set)  # distinct device calls, each compiled once

    @property
    def occupancy(self) -> float:
        """Share of the decoded rows that made a token of a completion."""
        return self.sampled_tokens / self.slot_steps if self.slot_steps else 0.0
