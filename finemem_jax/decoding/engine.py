"""The scheduler of decoding: requests come in as coroutines, completions go out, the slots stay full.

Each episode is a generator that yields a `Request` and is sent its `Completion`. `run` drives any number of them
over a fixed number of slots: a free slot takes the oldest waiting request, whichever episode it is from. The
schedule is a function of the requests and the lengths of their completions, never of the clock; and a completion
is a function of its request alone, never of the schedule.

The host speaks to the device once per `decode_chunk` tokens. All device shapes come from short lists of buckets:
slots in powers of two, prompt lengths and the attended part of the cache in two sizes per octave.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from finemem_jax.config import EngineConfig, UserError
from finemem_jax.decoding import generate as device
from finemem_jax.decoding.sampling import NO_STOP, RowSampling, completion_keys
from finemem_jax.types import Completion, Sampling

PREFILL_ROWS = 8  # prompts per prefill call, at most
MIN_ROWS = 4  # fewest slots that get a compiled decode of their own
SHRINK = 4  # slots shrink when a quarter of them would do
STOP_TOKENS = 4  # stop tokens per request are padded to a multiple of this


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be sampled. `key`: words that make its randomness its own, e.g. (step, episode, sample, t)."""

    prompt: tuple[int, ...]
    sampling: Sampling
    key: tuple[int, ...]


Episode = Generator[Request, Completion, Any]


@dataclass(slots=True)
class EngineStats:
    """What the engine did since the last `reset_stats`. Times in seconds of wall clock."""

    completions: int = 0
    prompt_tokens: int = 0  # of all requests
    prefilled_tokens: int = 0  # really run: shared prompts once, padding not counted
    sampled_tokens: int = 0
    decode_steps: int = 0
    slot_steps: int = 0  # decode steps times slots
    prefill_calls: int = 0
    decode_calls: int = 0
    device_seconds: float = 0.0  # waiting for the device
    host_seconds: float = 0.0  # everything else, the episodes' own work included
    shapes: set = field(default_factory=set)  # distinct device calls, each compiled once

    @property
    def occupancy(self) -> float:
        """Share of the decoded slots that made a token of a completion."""
        return self.sampled_tokens / self.slot_steps if self.slot_steps else 0.0


@dataclass(slots=True)
class _Running:
    """A request in a slot, and what it has sampled so far."""

    episode: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def cached(self) -> int:
        """Tokens in the slot's cache: all but the last."""
        return len(self.request.prompt) + len(self.tokens) - 1


class Engine:
    """Samples completions from `model` with the parameters last set."""

    def __init__(self, model: nn.Module, params: Any, cfg: EngineConfig):
        self.model = model
        self.params = params
        self.cfg = cfg
        self.stats = EngineStats()
        self._run: _Run | None = None
        # Slots are donated everywhere: the cache is updated in place, never copied.
        self._prefill = jax.jit(partial(device.prefill, model), donate_argnums=1)
        self._decode = jax.jit(
            partial(device.decode, model), static_argnames=("steps", "attend_to", "truncate"), donate_argnums=1
        )
        # Not donated: the moved slots have another shape, so the memory could not be reused.
        self._move = jax.jit(device.move_slots)
        self._keys = jax.jit(completion_keys)
        self._empty = jax.jit(partial(device.empty_slots, model), static_argnums=(0, 1, 2))

    def set_params(self, params: Any) -> None:
        """Later requests are sampled with these parameters."""
        self.params = params

    def reset_stats(self) -> EngineStats:
        """Returns the statistics so far and starts new ones."""
        stats, self.stats = self.stats, EngineStats(shapes=set(self.stats.shapes))
        return stats

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        keys: np.ndarray,
    ) -> list[Completion]:
        """One completion per prompt, in order.

        sampling: one for all, or one per prompt. keys: uint32 [prompts, words]; a completion is a function of the
        parameters, its prompt, its sampling and its key words. Equal prompts are prefilled once.
        """
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if not len(prompts) == len(samplings) == len(keys):
            raise ValueError(f"{len(prompts)} prompts, {len(samplings)} samplings and {len(keys)} keys")

        def single(request: Request) -> Episode:
            return (yield request)

        return self.run(
            single(Request(tuple(prompt), s, tuple(int(word) for word in key)))
            for prompt, s, key in zip(prompts, samplings, keys, strict=True)
        )

    def run(self, episodes: Iterable[Episode]) -> list[Any]:
        """Drives the episodes to their ends; returns what each returned, in order.

        While requests wait, the host works on finished completions behind a running device call. When none
        waits, it first lets the episodes go on, so that no slot stays idle for want of a request.
        """
        self._run = _Run(self, list(episodes))
        try:
            return self._run.drive()
        finally:
            self._run = None  # its slots are the largest buffers there are

    def describe(self) -> str:
        """What the engine is doing, in one line; any thread may ask at any time."""
        run, stats = self._run, self.stats
        if run is None:
            return "idle"
        live = len(run.running) - run.running.count(None)
        return (
            f"{run.unfinished} of {len(run.episodes)} episodes unfinished; {live} of {len(run.running)} slots "
            f"decoding, {len(run.waiting)} requests waiting, {len(run.finished)} completions not seen by their "
            f"episodes; so far {stats.completions} completions, {stats.prefill_calls} prefill and "
            f"{stats.decode_calls} decode calls"
        )


class _Run:
    """The state of one `Engine.run`."""

    def __init__(self, engine: Engine, episodes: list[Episode]):
        self.engine = engine
        self.cfg = engine.cfg
        self.stats = engine.stats
        self.episodes = episodes
        self.results: list[Any] = [None] * len(episodes)
        self.unfinished = len(episodes)
        self.waiting: deque[_Running] = deque()
        self.finished: list[tuple[int, Completion]] = []  # completions their episodes have not seen yet
        self.running: list[_Running | None] = []  # by slot
        self.slots: device.Slots | None = None
        self.stops = STOP_TOKENS

    def drive(self) -> list[Any]:
        started, waited = time.perf_counter(), self.stats.device_seconds
        for index in range(len(self.episodes)):
            self._advance(index, None)
        while self.unfinished:
            self._fit_rows()
            self._fill_slots()
            sampled = self._decode()
            self._advance_finished()
            self._collect(sampled)
            if not self.waiting:
                self._advance_finished()
        self.stats.host_seconds += time.perf_counter() - started - (self.stats.device_seconds - waited)
        return self.results

    # ---- episodes ----

    def _advance_finished(self) -> None:
        finished, self.finished = self.finished, []
        for index, completion in finished:
            self._advance(index, completion)

    def _advance(self, index: int, completion: Completion | None) -> None:
        try:
            request = self.episodes[index].send(completion)
        except StopIteration as stop:
            self.results[index] = stop.value
            self.unfinished -= 1
            return
        except Exception as error:
            error.add_note(f"raised by episode {index} of {len(self.episodes)} in this run of the engine")
            raise
        self._check(request)
        self.waiting.append(_Running(index, request))
        self.stats.prompt_tokens += len(request.prompt)

    def _check(self, request: Request) -> None:
        prompt, sampling = len(request.prompt), request.sampling
        if not prompt or sampling.max_tokens < 1:
            raise ValueError(f"a request needs a prompt and max_tokens >= 1, got {prompt} and {sampling.max_tokens}")
        if prompt + sampling.max_tokens > self.cfg.cache_tokens:
            raise UserError(
                f"prompt of {prompt} tokens + max_tokens {sampling.max_tokens} do not fit "
                f"config.engine.cache_tokens={self.cfg.cache_tokens}: raise it, or lower "
                "config.prompt.max_prompt_tokens or config.prompt.max_completion_tokens"
            )
        if len(sampling.stop_tokens) > self.stops:
            raise ValueError(f"{len(sampling.stop_tokens)} stop tokens, at most {self.stops} are supported")

    # ---- slots ----

    def _fit_rows(self) -> None:
        """Brings the number of slots to the bucket that holds all unfinished episodes.

        It shrinks only by SHRINK or more: each number of rows costs a compilation."""
        rows = _row_bucket(self.unfinished, self.cfg.slots)
        if len(self.running) // SHRINK < rows <= len(self.running):
            return
        kept = [slot for slot, running in enumerate(self.running) if running]
        if not kept:
            self.slots = self.engine._empty(rows, self.cfg.cache_tokens, self.stops)
            self.running = [None] * rows
            return
        index = np.full((rows,), -1, np.int32)
        index[: len(kept)] = kept
        self.slots = self.engine._move(self.slots, jax.device_put(index))
        self.running = [self.running[slot] if slot >= 0 else None for slot in index]

    def _fill_slots(self) -> None:
        """Prefills the oldest waiting requests into the free slots."""
        free = deque(slot for slot, running in enumerate(self.running) if running is None)
        by_bucket: dict[int, dict[tuple[int, ...], list[tuple[int, _Running]]]] = {}
        while free and self.waiting:
            slot, running = free.popleft(), self.waiting.popleft()
            self.running[slot] = running
            prompt = running.request.prompt
            bucket = _length_bucket(len(prompt) - 1, self.cfg.prompt_bucket, self.cfg.cache_tokens)
            by_bucket.setdefault(bucket, {}).setdefault(prompt, []).append((slot, running))
        for bucket, prompts in by_bucket.items():
            groups = list(prompts.items())
            for start in range(0, len(groups), PREFILL_ROWS):
                self._prefill(bucket, groups[start : start + PREFILL_ROWS])

    def _prefill(self, bucket: int, groups: list[tuple[tuple[int, ...], list[tuple[int, _Running]]]]) -> None:
        rows = _row_bucket(len(groups), PREFILL_ROWS)
        tokens = np.zeros((rows, bucket), np.int32)
        lengths = np.zeros((rows,), np.int32)
        for row, (prompt, _) in enumerate(groups):
            lengths[row] = len(prompt) - 1
            tokens[row, : lengths[row]] = prompt[:-1]
        placed = [(row, *entry) for row, (_, entries) in enumerate(groups) for entry in entries]
        inputs = jax.device_put((tokens, lengths, self._placement(placed)))
        self.slots = self.engine._prefill(self.engine.params, self.slots, *inputs)
        self.stats.prefill_calls += 1
        self.stats.prefilled_tokens += int(lengths.sum())
        self.stats.shapes.add(("prefill", rows, bucket, len(self.running)))

    def _placement(self, placed: list[tuple[int, int, _Running]]) -> device.Placement:
        """Entries (prompt row, slot, request), padded to the number of slots."""
        entries = len(self.running)
        requests = [running.request for _, _, running in placed]
        samplings = [request.sampling for request in requests]
        words = max(len(request.key) for request in requests)
        if any(len(request.key) != words for request in requests):
            raise ValueError("all keys of a run must have the same number of words")

        def column(values: list, dtype: type, fill: int = 0) -> np.ndarray:
            return np.array(values + [fill] * (entries - len(values)), dtype)

        stops = np.full((entries, self.stops), NO_STOP, np.int32)
        for i, s in enumerate(samplings):
            stops[i, : len(s.stop_tokens)] = s.stop_tokens
        key_words = np.zeros((entries, words), np.uint32)
        key_words[: len(requests)] = [request.key for request in requests]
        return device.Placement(
            n=np.int32(len(placed)),
            source=column([row for row, _, _ in placed], np.int32),
            slot=column([slot for _, slot, _ in placed], np.int32, entries),
            token=column([request.prompt[-1] for request in requests], np.int32),
            sampling=RowSampling(
                key=self.engine._keys(jax.device_put(key_words)),
                temperature=column([s.temperature for s in samplings], np.float32),
                top_k=column([s.top_k for s in samplings], np.int32),
                top_p=column([s.top_p for s in samplings], np.float32, 1),
                max_tokens=column([s.max_tokens for s in samplings], np.int32),
                min_tokens=column([s.min_tokens for s in samplings], np.int32),
                stop_tokens=stops,
            ),
        )

    def _decode(self) -> device.Sampled:
        live = [running for running in self.running if running]
        steps = self.cfg.decode_chunk
        longest = max(running.cached for running in live)
        attend_to = _length_bucket(longest + steps, self.cfg.prompt_bucket, self.cfg.cache_tokens)
        truncate = any(_truncates(running.request.sampling) for running in live)
        floor = jax.device_put(np.int32(self._floor()))
        self.slots, sampled = self.engine._decode(
            self.engine.params, self.slots, floor, steps=steps, attend_to=attend_to, truncate=truncate
        )
        self.stats.decode_calls += 1
        self.stats.shapes.add(("decode", len(self.running), attend_to, truncate))
        return sampled

    def _floor(self) -> int:
        """Active slots at which a decode call ends early: when enough are free to refill, or to do with fewer."""
        rows = len(self.running)
        if self.waiting:
            return rows - max(1, rows // 8)
        smaller = rows // SHRINK
        live = rows - self.running.count(None)  # unfinished episodes that go on later are not decoding now
        return smaller if live > smaller >= MIN_ROWS else 0

    def _collect(self, sampled: device.Sampled) -> None:
        """Fetches what a decode call sampled and takes the completions that are done out of their slots."""
        started = time.perf_counter()
        sampled = jax.device_get(sampled)
        self.stats.device_seconds += time.perf_counter() - started
        self.stats.decode_steps += int(sampled.steps)
        self.stats.slot_steps += int(sampled.steps) * len(self.running)
        for slot, running in enumerate(self.running):
            if running is not None:
                count = int(sampled.emitted[slot])
                running.tokens += sampled.tokens[:count, slot].tolist()
                running.logprobs += sampled.logprobs[:count, slot].tolist()
                self._take_if_done(slot, running)

    def _take_if_done(self, slot: int, running: _Running) -> None:
        if not np.isfinite(running.logprobs).all():
            raise FloatingPointError(
                f"the model gave NaN or infinite logits for the request with key {running.request.key} "
                f"(prompt of {len(running.request.prompt)} tokens, after {len(running.tokens)} sampled)"
            )
        sampling = running.request.sampling
        is_stopped = running.tokens[-1] in sampling.stop_tokens
        if not is_stopped and len(running.tokens) < sampling.max_tokens:
            return
        completion = Completion(
            tuple(running.tokens), tuple(running.logprobs), "stop" if is_stopped else "length"
        )
        self.finished.append((running.episode, completion))
        self.running[slot] = None
        self.stats.completions += 1
        self.stats.sampled_tokens += len(running.tokens)


def _truncates(sampling: Sampling) -> bool:
    return bool(sampling.top_k) or sampling.top_p < 1.0


def _row_bucket(rows: int, most: int) -> int:
    """The smallest of MIN_ROWS, its doubles and `most` that holds `rows`; `most` when none does."""
    bucket = min(MIN_ROWS, most)
    while bucket < rows and bucket < most:
        bucket = min(2 * bucket, most)
    return bucket


def _length_bucket(length: int, unit: int, most: int) -> int:
    """The smallest of unit * (1, 2, 3, 4, 6, 8, 12, 16, ...) that holds `length`, at most `most`."""
    bucket, step = unit, unit
    while bucket < length:
        bucket += step
        if bucket >= 4 * step:
            step *= 2
    return min(bucket, most)
