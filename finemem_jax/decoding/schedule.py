"""The schedule of one `Engine.run`: who is decoded, who waits, which prompts are prefilled together.

Each round: pages for the tokens that the rows may sample next, taken from the youngest rows when there are no more;
waiting requests into free rows, oldest first, as long as their pages fit; prefill; the writes into fast weights that
are ready, together; decode; and while the device is at it, the episodes whose completions came out of the round before
go on.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np

from finemem_jax.config import EngineConfig, UserError
from finemem_jax.decoding import buckets
from finemem_jax.decoding import generate as device
from finemem_jax.decoding.pages import Pages
from finemem_jax.decoding.request import Cancelled, EngineStats, Episode, EpisodesFailed, Request, Update
from finemem_jax.decoding.sampling import NO_STOP, STOP_TOKENS
from finemem_jax.nn.paged_cache import SCRATCH, PageCopies
from finemem_jax.types import AnswererDown, Completion, Sampling, Written

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Running:
    """A request, what it has sampled so far, and its pages while it has a row."""

    episode: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    shared: int = 0  # how many of them, from the first on, were or will be filled by others

    @property
    def to_cache(self) -> tuple[int, ...]:
        """The tokens that belong in its pages."""
        return (*self.request.prompt, *self.tokens)[:-1]

    @property
    def cached(self) -> int:
        """Tokens in its pages: all but the last."""
        return len(self.request.prompt) + len(self.tokens) - 1

    def reach(self, steps: int) -> int:
        """Tokens in its pages after so many steps at most."""
        return self.cached + min(steps, self.request.sampling.max_tokens - len(self.tokens))


@dataclass(slots=True)
class Part:
    """A part of a prompt, to be a row of one prefill call."""

    tokens: tuple[int, ...]
    fast: int  # number of the fast weights it is read with
    adapter: int  # of the adapter
    width: int  # pages it is padded to
    past: list[int]  # pages before it
    copies: list[tuple[int, int]]  # (page of the part, page of the pool)


@runtime_checkable
class Device(Protocol):
    """What a run asks of the engine: calls that are dispatched, not waited for."""

    cfg: EngineConfig
    writes: int  # into fast weights, of one call, at most
    stats: EngineStats
    is_timed: bool  # the time of prefills is measured
    cancelled: set[tuple[int, ...]]  # keys of requests

    def prefill(self, rows: device.PrefillRows) -> None: ...

    def decode(self, rows: device.DecodeRows, floor: int, truncate: bool) -> device.Sampled: ...

    def write(self, updates: Sequence[Update]) -> Any: ...

    def written(self, updates: Sequence[Update], result: Any) -> list[Written]: ...


class Run:
    """The state of one `Engine.run`."""

    def __init__(self, engine: Device, pages: Pages, episodes: list[Episode], names: Sequence[str] = ()):
        self.engine, self.cfg, self.stats, self.pages = engine, engine.cfg, engine.stats, pages
        self.episodes = episodes
        self.names = names or [f"episode {i}" for i in range(len(episodes))]
        self.results: list[Any] = [None] * len(episodes)
        self.failures: list[tuple[int, str, Exception]] = []
        self.unfinished = len(episodes)
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []  # in the order they got their rows, which are their places in this list
        self.updates: list[tuple[int, Update]] = []  # writes that are ready
        # completions and writes that their episodes have not seen yet
        self.finished: list[tuple[int, Completion | Written]] = []
        self.most_pages = self.pages.count(self.cfg.cache_tokens)

    def drive(self) -> list[Any]:
        started, busy = time.perf_counter(), self.stats.device_seconds
        for index in range(len(self.episodes)):
            self._advance(index, None)
        while self.unfinished:
            self._drop_cancelled()
            self._grow()
            placed = self._admit()
            if self.running or self.updates:
                self._round(placed)
            if not self.waiting:
                self._advance_finished()
        self.stats.host_seconds += time.perf_counter() - started - (self.stats.device_seconds - busy)
        if self.failures:
            raise EpisodesFailed(self.failures, self.results)
        return self.results

    def _round(self, placed: list[Running]) -> None:
        """One trip to the device and back."""
        started = time.perf_counter()
        self._prefill(placed)
        if self.engine.is_timed:
            self.stats.prefill_seconds += time.perf_counter() - started
        writes = self._write()
        sampled = self._decode() if self.running else None
        dispatched = time.perf_counter()
        self._advance_finished()
        self.stats.overlapped_seconds += time.perf_counter() - dispatched
        written = [(index, done) for calls in writes for index, done in self._written(*calls)]
        sampled = jax.device_get(sampled)
        self.stats.device_seconds += time.perf_counter() - started
        self.finished += written
        if sampled is not None:
            self._collect(sampled)

    def _write(self) -> list[tuple[list[tuple[int, Update]], Any]]:
        """Dispatches the writes that are ready, in as few calls as hold them."""
        ready, self.updates = self.updates, []
        most = self.engine.writes if ready else 1
        calls = [ready[start : start + most] for start in range(0, len(ready), most)]
        return [(call, self.engine.write([update for _, update in call])) for call in calls]

    def _written(self, call: list[tuple[int, Update]], result: Any) -> list[tuple[int, Written]]:
        done = self.engine.written([update for _, update in call], result)
        return [(index, written) for (index, _), written in zip(call, done, strict=True)]

    # ---- episodes ----

    def _advance_finished(self) -> None:
        finished, self.finished = self.finished, []
        for index, done in finished:
            self._advance(index, done)

    def _advance(self, index: int, done: Completion | Written | None) -> None:
        """Lets an episode go on; its next request goes to the end of the queue."""
        try:
            request = self.episodes[index].send(done)
        except StopIteration as stop:
            self.results[index] = stop.value
            self.unfinished -= 1
            return
        except (UserError, AnswererDown):
            raise  # every episode meets it
        except Exception as error:
            log.error("%s failed, the others go on: %s: %s", self.names[index], type(error).__name__, error)
            error.add_note(f"raised by {self.names[index]} in this run of the engine")
            self.failures.append((index, self.names[index], error))
            self.unfinished -= 1
            return
        if isinstance(request, Update):
            self.updates.append((index, request))
            return
        self._check(request)
        self.waiting.append(Running(index, request))
        self.stats.prompt_tokens += len(request.prompt)

    def _check(self, request: Request) -> None:
        prompt, sampling = len(request.prompt), request.sampling
        if not prompt or sampling.max_tokens < 1:
            raise ValueError(f"a request needs a prompt and max_tokens >= 1, got {prompt} and {sampling.max_tokens}")
        asked = f"{request}: prompt of {prompt} tokens + max_tokens {sampling.max_tokens} do not fit"
        advice = "raise it, or lower config.prompt.max_prompt_tokens or config.prompt.max_completion_tokens"
        if prompt + sampling.max_tokens > self.cfg.cache_tokens:
            raise UserError(f"{asked} config.engine.cache_tokens={self.cfg.cache_tokens}: {advice}")
        held = self.pages.usable * self.pages.page
        if self.pages.count(prompt + sampling.max_tokens) * self.pages.page > held:
            knob = f"config.engine.pool_tokens={self.cfg.pool_tokens}"
            raise UserError(
                f"{asked} the cache of {held} tokens ({knob}; 0 = what the device's memory holds): {advice}"
            )
        if len(sampling.stop_tokens) > STOP_TOKENS:
            raise ValueError(f"{len(sampling.stop_tokens)} stop tokens, at most {STOP_TOKENS} are supported")

    def _drop_cancelled(self) -> None:
        if not self.engine.cancelled:
            return
        for running in [*self.running, *self.waiting]:
            if running.request.key in self.engine.cancelled:
                (self.running if running in self.running else self.waiting).remove(running)
                self.pages.give_back(running.pages)
                self.episodes[running.episode].close()
                self.results[running.episode] = Cancelled(running.request)
                self.unfinished -= 1
        self.engine.cancelled.clear()

    # ---- pages ----

    def _grow(self) -> None:
        """Pages for what the next call may sample, oldest rows first; the youngest lose theirs when there are no more
        and wait until some are free. The oldest can always go on: `_check` saw that it fits alone."""
        for running in list(self.running):
            if running not in self.running:
                continue
            missing = self.pages.count(running.reach(self.cfg.decode_chunk)) - len(running.pages)
            while missing > 0 and (taken := self.pages.take(missing)) is None:
                victim = self.running.pop()
                self.pages.give_back(victim.pages)
                victim.pages = []
                self.waiting.appendleft(victim)
                self.stats.preemptions += 1
                if victim is running:
                    break
            else:
                if missing > 0 and taken is not None:
                    running.pages += taken

    def _admit(self) -> list[Running]:
        """Waiting requests that get a row and pages now, in order of arrival. None overtakes one that waits."""
        placed = []
        while self.waiting and len(self.running) < self.cfg.slots:
            running = self.waiting[0]
            tokens = running.to_cache
            shared = self.pages.share(tokens, running.request.weights)
            taken = self.pages.take(self.pages.count(running.reach(self.cfg.decode_chunk)) - len(shared))
            if taken is None:
                self.pages.give_back(shared)
                break
            self.waiting.popleft()
            running.pages, running.shared = shared + taken, len(shared)
            self.running.append(running)
            placed.append(running)
            # Named before they are filled: whoever is placed next shares them, and is prefilled after them.
            self.pages.name(running.pages, tokens, running.request.weights)
        return placed

    # ---- prefill ----

    def _prefill(self, placed: list[Running]) -> None:
        """Fills the pages of newly placed requests, in as few calls as their dependences allow."""
        page = self.pages.page
        calls: dict[tuple[int, int], list[Part]] = defaultdict(list)  # by level and width
        filled_at: dict[int, int] = {}  # page -> level of the call that fills it
        last_parts: dict[tuple[int, tuple[int, ...]], Part] = {}  # weights and prompt -> its last part
        for running in placed:
            tokens = running.to_cache
            alike = (running.request.weights, tokens)
            if alike in last_parts:  # full pages are shared; the one that is sampled into is each request's own
                if len(tokens) % page:
                    part, full = last_parts[alike], len(tokens) // page
                    part.copies.append((full - len(part.past), running.pages[full]))
                continue
            level = 1 + max((filled_at.get(shared, -1) for shared in running.pages[: running.shared]), default=-1)
            for part in self._parts(running, tokens):
                calls[level, part.width].append(part)
                filled_at.update((own, level) for _, own in part.copies)
                last_parts[alike] = part
                level += 1
        for (_, width), parts in sorted(calls.items(), key=lambda call: call[0]):
            full = buckets.prefill_rows(width * page, self.cfg.prefill_tokens)
            while parts:
                rows = full if len(parts) > full // 2 else 1
                self._prefill_call(parts[:rows], rows, width)
                parts = parts[rows:]

    def _parts(self, running: Running, tokens: tuple[int, ...]) -> Iterator[Part]:
        """What no page holds yet, cut into parts of few widths; each has the ones before it in its past."""
        page, first, last = self.pages.page, running.shared, self.pages.count(len(tokens))
        while first < last:
            width = buckets.prefill_width(last - first, self.most_pages)
            own = running.pages[first : min(first + width, last)]
            part = tokens[first * page : (first + width) * page]
            request, copies = running.request, [*enumerate(own)]
            yield Part(part, request.fast, request.adapter, width, running.pages[:first], copies)
            first += width

    def _prefill_call(self, parts: list[Part], rows: int, width: int) -> None:
        page = self.pages.page
        most_past = buckets.past_bucket(max(len(part.past) for part in parts))
        tokens = np.zeros((rows, width * page), np.int32)
        past = np.full((rows, most_past), SCRATCH, np.int32)
        lengths, past_lengths, fast, adapter = np.zeros((4, rows), np.int32)
        copies = []
        for row, part in enumerate(parts):
            lengths[row], past_lengths[row] = len(part.tokens), len(part.past) * page
            fast[row], adapter[row] = part.fast, part.adapter
            tokens[row, : lengths[row]] = part.tokens
            past[row, : len(part.past)] = part.past
            copies += [(row * width + source, target) for source, target in part.copies]
        places = np.zeros((2, rows * width + self.cfg.slots), np.int32)
        places[:, : len(copies)] = np.array(copies).T
        placed = PageCopies(np.int32(len(copies)), *places)
        self.engine.prefill(device.PrefillRows(tokens, lengths, past, past_lengths, placed, fast, adapter))

    # ---- decode ----

    def _decode(self) -> device.Sampled:
        """Dispatches the next tokens of all rows."""
        rows, page = buckets.row_bucket(len(self.running), self.cfg.slots), self.pages.page
        requests = [running.request for running in self.running]
        samplings = [request.sampling for request in requests]
        words = max(len(request.key) for request in requests)
        if any(len(request.key) != words for request in requests):
            raise ValueError("all keys of a run must have the same number of words")

        def column(values: list, dtype: type, fill: int = 0) -> np.ndarray:
            return np.array(values + [fill] * (rows - len(values)), dtype)

        stops = np.full((rows, STOP_TOKENS), NO_STOP, np.int32)
        key_words = np.zeros((rows, words), np.uint32)
        for i, request in enumerate(requests):
            stops[i, : len(request.sampling.stop_tokens)] = request.sampling.stop_tokens
            key_words[i] = request.key

        counts = np.array([self.pages.count(r.reach(self.cfg.decode_chunk)) for r in self.running])
        ends = np.cumsum(counts)
        listed = buckets.listed_bucket(int(ends[-1]), rows)
        pages, starts = np.zeros((2, listed), np.int32)
        owners = np.full(listed, rows, np.int32)
        pages[: ends[-1]] = [p for r, n in zip(self.running, counts, strict=True) for p in r.pages[:n]]
        owners[: ends[-1]] = np.repeat(np.arange(len(counts)), counts)
        starts[: ends[-1]] = page * (np.arange(ends[-1]) - np.repeat(ends - counts, counts))

        return self.engine.decode(
            device.DecodeRows(
                token=column([(r.tokens or r.request.prompt)[-1] for r in self.running], np.int32),
                length=column([r.cached for r in self.running], np.int32),
                count=column([len(r.tokens) for r in self.running], np.int32),
                is_active=column([True] * len(requests), bool),
                key_words=key_words,
                temperature=column([s.temperature for s in samplings], np.float32),
                top_k=column([s.top_k for s in samplings], np.int32),
                top_p=column([s.top_p for s in samplings], np.float32, 1),
                max_tokens=column([s.max_tokens for s in samplings], np.int32),
                min_tokens=column([s.min_tokens for s in samplings], np.int32),
                stop_tokens=stops,
                pages=pages,
                page_rows=owners,
                page_starts=starts,
                first_page=column((ends - counts).tolist(), np.int32),
                fast=column([request.fast for request in requests], np.int32),
                adapter=column([request.adapter for request in requests], np.int32),
            ),
            self._floor(),
            any(s.top_k or s.top_p < 1.0 for s in samplings),
        )

    def _floor(self) -> int:
        """Active rows at which a decode call ends early: when enough are done for others, or for the next requests of
        their own episodes, to take their rows."""
        live = len(self.running)
        if self.waiting:
            return live - max(1, live // 8)
        return live - live // 4 if live > buckets.MIN_ROWS else 0

    def _collect(self, sampled: device.Sampled) -> None:
        """Takes what a decode call sampled, and the requests that are done out of their rows."""
        steps = int(sampled.steps)
        self.stats.decode_steps += steps
        self.stats.slot_steps += steps * len(sampled.emitted)
        tokens, logprobs, emitted = sampled.tokens.T.tolist(), sampled.logprobs.T.tolist(), sampled.emitted.tolist()
        going_on = []
        for row, running in enumerate(self.running):
            before = len(running.tokens)
            running.tokens += tokens[row][: emitted[row]]
            running.logprobs += logprobs[row][: emitted[row]]
            if self._is_done(running, before):
                self.pages.give_back(running.pages)
            else:
                going_on.append(running)
        self.running = going_on

    def _is_done(self, running: Running, before: int) -> bool:
        """Whether a token behind the first `before` ended it; then its completion is among the finished."""
        if not np.isfinite(running.logprobs).all():
            raise FloatingPointError(
                f"the model gave NaN or infinite logits for {running.request} "
                f"(prompt of {len(running.request.prompt)} tokens, after {len(running.tokens)} sampled)"
            )
        sampling: Sampling = running.request.sampling
        ends = running.request.ends
        if ends is not None and (length := ends(running.tokens, before)):
            del running.tokens[length:], running.logprobs[length:]
            finish: Literal["stop", "string", "length"] = "string"
        elif running.tokens[-1] in sampling.stop_tokens:
            finish = "stop"
        elif len(running.tokens) < sampling.max_tokens:
            return False
        else:
            finish = "length"
        self.finished.append((running.episode, Completion(tuple(running.tokens), tuple(running.logprobs), finish)))
        self.stats.completions += 1
        self.stats.sampled_tokens += len(running.tokens)
        return True
