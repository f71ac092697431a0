"""The engine: requests come in as coroutines, completions go out, the rows of the decode batch stay full.

Each episode is a generator that yields a `Request` and is sent its `Completion`. `Engine.run` drives any number of
them (`decoding/schedule.py` decides what runs when). A completion is a function of its request and the parameters
alone, never of the schedule; and the schedule is a function of the requests and the lengths of their completions,
never of the clock.

The host speaks to the device once per `decode_chunk` tokens. All device shapes come from short lists of buckets:
rows in powers of SHRINK, pages in two sizes per octave, prefills in powers of two (`Engine.warm_up` compiles them all).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from finemem_jax.config import EngineConfig
from finemem_jax.decoding import generate as device
from finemem_jax.decoding import placement
from finemem_jax.decoding.pages import Pages
from finemem_jax.nn.mesh import HEADS
from finemem_jax.nn.paged_cache import PageCopies, PagePool
from finemem_jax.types import Completion, Sampling

if TYPE_CHECKING:
    from finemem_jax.decoding.schedule import Run

MIN_ROWS = 4  # fewest rows that get a compiled decode of their own
SHRINK = 4  # the decode batch shrinks to a quarter, or not at all
PREFILL_ROWS = 8  # prompts per prefill call, at most
MEMORY_SHARE = 0.8  # of the device's free memory, for the cache


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be sampled. `key`: words that make its randomness its own, e.g. (seed, step, group, …).
    `name`: what to call it in an error."""

    prompt: tuple[int, ...]
    sampling: Sampling
    key: tuple[int, ...]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name or 'the request'} with key {self.key}"


Episode = Generator[Request, Completion, Any]


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


class Engine:
    """Samples completions from `model` with the parameters last set."""

    def __init__(self, model: nn.Module, params: Any, cfg: EngineConfig):
        self.model = model
        self.cfg = cfg
        self.stats = EngineStats()
        self._running: Run | None = None
        self.is_timed = False  # wait after every prefill, to tell its time from decoding's
        self.pool: PagePool | None = None
        self.pages: Pages | None = None
        self._page_count = 0  # of every pool; decided when the first is made, so that a released one comes back alike
        self.cancelled: set[tuple[int, ...]] = set()
        devices = placement.local_devices(params)
        self.mesh = placement.decode_mesh(model.cfg, devices, cfg.tensor)
        self.device = devices[0]
        self._prefill = placement.make_prefill(model, self.mesh)
        self._decode = placement.make_decode(model, self.mesh)
        self.set_params(params)

    def set_params(self, params: Any) -> None:
        """Later requests are sampled with these parameters, resharded from wherever they are to the decode mesh."""
        self.params = placement.weights_for_decoding(self.model, params, self.mesh, self.cfg.weights)
        if self.pool is not None:  # what it holds was computed with others
            self.pages = Pages(self.pool.pages, self.pool.page)

    def release(self) -> None:
        """Gives the cache's memory back, e.g. to an update; the next run makes a new one of the same size."""
        self.pool = self.pages = None

    def reset_stats(self) -> EngineStats:
        """Returns the statistics so far and starts new ones."""
        stats, self.stats = self.stats, EngineStats(shapes=set(self.stats.shapes))
        return stats

    def cancel(self, key: tuple[int, ...]) -> None:
        """The request with this key ends at the next call to the device, and its episode with it: the episode is
        closed, its result is `Cancelled`. To be called while `run` runs, from an episode."""
        self.cancelled.add(key)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        keys: np.ndarray,
    ) -> list[Completion]:
        """One completion per prompt, in order.

        sampling: one for all, or one per prompt. keys: uint32 [prompts, words]; a completion is a function of the
        parameters, its prompt, its sampling and its key words. What prompts have in common is prefilled once.
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

    def run(self, episodes: Iterable[Episode], names: Sequence[str] = ()) -> list[Any]:
        """Drives the episodes to their ends; returns what each returned, in order.

        While requests wait, the host works on finished completions behind a running device call. When none waits,
        it first lets the episodes go on, so that no row stays idle for want of a request. An exception in an episode
        ends that episode; `EpisodesFailed` tells of it by name (default: its index) when the others are through.
        """
        from finemem_jax.decoding.schedule import Run  # it is built upon this module

        self._ensure_pool()
        self._running = Run(self, list(episodes), names)
        try:
            return self._running.drive()
        except BaseException:
            self.release()  # what is half done is not to be found again
            raise
        finally:
            self._running = None
            self.cancelled.clear()

    def describe(self) -> str:
        """What the engine is doing, in one line; any thread may ask at any time."""
        run, stats = self._running, self.stats
        if run is None:
            return "idle"
        return (
            f"{run.unfinished} of {len(run.episodes)} episodes unfinished; {len(run.running)} of {self.cfg.slots} "
            f"slots decoding, {len(run.waiting)} requests waiting, {len(run.finished)} completions not seen by their "
            f"episodes; so far {stats.completions} completions, {stats.prefill_calls} prefill and "
            f"{stats.decode_calls} decode calls"
        )

    def shapes(self, key_words: int, *, truncate: bool = False) -> list[tuple]:
        """Every shape that a run can need, for keys of so many words: what `compile` takes."""
        page, most = self.cfg.page_tokens, -(-self.cfg.cache_tokens // self.cfg.page_tokens)
        widths = sorted({prefill_width(pages, most) for pages in range(1, most + 1)})
        prefills = {
            ("prefill", rows, width * page, past_bucket(past))
            for width in widths
            for rows in (1, prefill_rows(width * page, self.cfg.prefill_tokens))
            for past in range(most)
            if past + 1 <= most and (not past or width <= prefill_width(most - past, most))
        }
        rows = {row_bucket(live, self.cfg.slots) for live in range(1, self.cfg.slots + 1)}
        decodes = {
            ("decode", bucket, listed_bucket(pages, bucket), key_words, cut)
            for bucket in rows
            for pages in range(1, bucket * most + 1)
            for cut in {False, truncate}
        }
        return sorted(prefills) + sorted(decodes)

    def compile(self, shape: tuple) -> None:
        """Compiles one of `shapes` by a call that does nothing: no row is active, no page is copied."""
        self._ensure_pool()
        kind, rows, *sizes = shape
        if kind == "prefill":
            seq, past = sizes
            lengths, zeros = np.zeros((2, rows), np.int32)
            places = np.zeros((2, rows * (seq // self.cfg.page_tokens) + self.cfg.slots), np.int32)
            tokens, pages = np.zeros((rows, seq), np.int32), np.zeros((rows, past), np.int32)
            self.prefill(device.PrefillRows(tokens, lengths, pages, zeros, PageCopies(np.int32(0), *places)))
        else:
            listed, words, truncate = sizes
            self.decode(placement.idle_rows(rows, listed, words), 0, truncate)

    def _ensure_pool(self) -> None:
        if self.pool is None:
            self._page_count = self._page_count or self._pool_pages()
            pool = placement.pool_of(self.model, self.cfg, self.mesh, self._page_count, self.device.platform)()
            # Bound to its device like the pools that calls return: else the first call counts as another shape.
            self.pool = pool if self.mesh is not None else jax.device_put(pool, self.device)
            self.pages = Pages(self.pool.pages, self.pool.page)

    def _pool_pages(self) -> int:
        """Pages of the pool: for all slots at full length, unless config or memory hold fewer."""
        page, cfg = self.cfg.page_tokens, self.model.cfg
        wanted = self.cfg.slots * -(-self.cfg.cache_tokens // page)
        if self.cfg.pool_tokens:
            return min(wanted, self.cfg.pool_tokens // page)
        memory = self.device.memory_stats() or {}
        if "bytes_limit" not in memory:
            return wanted
        kv_heads = cfg.num_kv_heads // (1 if self.mesh is None else self.mesh.shape[HEADS])
        token_bytes = 2 * cfg.num_layers * kv_heads * cfg.head_dim * jnp.dtype(cfg.dtype).itemsize
        free = MEMORY_SHARE * (memory["bytes_limit"] - memory["bytes_in_use"])
        return min(wanted, int(free / (token_bytes * page)))

    # ---- device calls ----

    def _put(self, inputs: Any) -> Any:
        return jax.device_put(inputs, self.device if self.mesh is None else NamedSharding(self.mesh, PartitionSpec()))

    def prefill(self, rows: device.PrefillRows) -> None:
        """Dispatches one prefill. The rows' arrays are numpy's."""
        self.stats.prefill_calls += 1
        self.stats.prefilled_tokens += int(rows.lengths.sum())
        self.stats.shapes.add(("prefill", *rows.tokens.shape, rows.past_pages.shape[1]))
        self.pool = self._prefill(self.params, self.pool, self._put(rows))
        if self.is_timed:
            jax.block_until_ready(self.pool)

    def decode(self, rows: device.DecodeRows, floor: int, truncate: bool) -> device.Sampled:
        """Dispatches one decode of up to `decode_chunk` tokens per row; the result is still on the device."""
        self.stats.decode_calls += 1
        self.stats.shapes.add(("decode", len(rows.token), len(rows.pages), rows.key_words.shape[1], truncate))
        inputs = self._put((rows, np.int32(floor)))
        self.pool, sampled = self._decode(
            self.params, self.pool, *inputs, steps=self.cfg.decode_chunk, truncate=truncate
        )
        return sampled


# ---- buckets ----


def row_bucket(rows: int, most: int) -> int:
    """The smallest of most, most / SHRINK, … (not below MIN_ROWS) that holds `rows`; `most` when none does."""
    bucket = most
    while bucket // SHRINK >= max(rows, MIN_ROWS):
        bucket //= SHRINK
    return bucket


def listed_bucket(pages: int, rows: int) -> int:
    """The smallest of rows * (2, 4, 6, 8, 12, 16, 24, …) that holds so many pages."""
    each = 2
    while rows * each < pages:
        each += 2 if each < 8 else 2 ** (each.bit_length() - 2)
    return rows * each


def prefill_width(pages: int, most: int) -> int:
    """Pages of a row's next prefill, of which `pages` (at least one) are left: a power of two or `most`.

    The next above where a quarter of it at most is padding; else the next below, and the rest in another call."""
    above = 2 ** math.ceil(math.log2(pages))
    if above > most:
        return most
    return above if pages >= 0.75 * above else above // 2


def past_bucket(pages: int) -> int:
    """0 or the smallest of 4, 16, 64, … that holds so many pages of a prefill's past."""
    return 4 ** max(1, math.ceil(math.log(pages, 4) - 1e-9)) if pages else 0


def prefill_rows(seq: int, budget: int) -> int:
    """Rows of a full prefill call of `seq` tokens each: a power of two, at most PREFILL_ROWS, within the budget."""
    return 2 ** int(math.log2(min(PREFILL_ROWS, max(1, budget // seq))))
