"""The engine: requests come in as coroutines, completions go out, the rows of the decode batch stay full.

Each episode is a generator that yields a `Request` and is sent its `Completion`. `Engine.run` drives any number of
them (`decoding/schedule.py` decides what runs when). A completion is a function of its request and the parameters
alone, never of the schedule; and the schedule is a function of the requests and the lengths of their completions,
never of the clock.

The host speaks to the device once per `decode_chunk` tokens. All device shapes come from short lists (buckets.py), so
that all of them can be compiled ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from finemem_jax.config import EngineConfig
from finemem_jax.decoding import generate as device
from finemem_jax.decoding import placement
from finemem_jax.decoding.buckets import (
    listed_bucket,
    past_bucket,
    prefill_rows,
    prefill_width,
    row_bucket,
    text_tokens,
    update_rows,
)
from finemem_jax.decoding.fast_places import NONE, FastPlaces, FastPool, pad_texts
from finemem_jax.decoding.pages import Pages
from finemem_jax.decoding.request import EngineStats, Episode, Request, Update
from finemem_jax.decoding.schedule import Run
from finemem_jax.nn.fast_weights import FastSetup, FastWeights, Memory, empty_memory
from finemem_jax.nn.mesh import HEADS
from finemem_jax.nn.paged_cache import PageCopies, PagePool
from finemem_jax.types import Completion, Sampling, Written

MEMORY_SHARE = 0.8  # of the device's free memory, for the cache


class Engine:
    """Samples completions from `model` with the parameters last set. fast: where its rows may carry fast weights."""

    def __init__(self, model: nn.Module, params: Any, cfg: EngineConfig, fast: FastSetup | None = None):
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
        self.fast = fast
        self.writes = fast.cfg.rows if fast is not None else 1
        self.fast_pool: FastPool | None = None
        self.fast_places = FastPlaces(cfg.slots)
        if fast is not None:
            self._write = placement.make_write(model, self.mesh, fast.cfg)
            self._load = jax.jit(FastPool.load, donate_argnums=0)
        self.set_params(params)

    @property
    def roles(self) -> tuple[str, ...]:
        """Of turns that have adapters of their own, in the order of their numbers; none where all share one."""
        return self.model.cfg.lora.roles

    def set_params(self, params: Any) -> None:
        """Later requests are sampled with these parameters, resharded from wherever they are to the decode mesh."""
        self.params = placement.weights_for_decoding(self.model, params, self.mesh, self.cfg.weights)
        if self.pool is not None:  # what it holds was computed with others
            self.pages = Pages(self.pool.pages, self.pool.page)
        self.take_snapshots()  # what was written into others says nothing

    def release(self) -> None:
        """Gives the cache's memory back, e.g. to an update; the next run makes a new one of the same size."""
        self.pool = self.pages = self.fast_pool = None
        self.fast_places.unplace()

    def take_snapshots(self) -> dict[int, Memory]:
        """B of all fast weights that were written since, by number; the engine forgets them. Between runs only."""
        places, self.fast_places = self.fast_places, FastPlaces(self.cfg.slots, self.fast_places.next)
        return places.known

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
        adapters: Sequence[int] = (),
    ) -> list[Completion]:
        """One completion per prompt, in order.

        sampling: one for all, or one per prompt. keys: uint32 [prompts, words]; a completion is a function of the
        parameters, its prompt, its sampling and its key words. What prompts have in common is prefilled once.
        adapters: one per prompt, where roles have their own; () = the first for all.
        """
        adapters = adapters or [0] * len(prompts)
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if not len(prompts) == len(samplings) == len(keys):
            raise ValueError(f"{len(prompts)} prompts, {len(samplings)} samplings and {len(keys)} keys")

        def single(request: Request) -> Episode:
            return (yield request)

        return self.run(
            single(Request(tuple(prompt), s, tuple(int(word) for word in key), adapter=adapter))
            for prompt, s, key, adapter in zip(prompts, samplings, keys, adapters, strict=True)
        )

    def run(self, episodes: Iterable[Episode], names: Sequence[str] = ()) -> list[Any]:
        """Drives the episodes to their ends; returns what each returned, in order.

        While requests wait, the host works on finished completions behind a running device call. When none waits,
        it first lets the episodes go on, so that no row stays idle for want of a request. An exception in an episode
        ends that episode; `EpisodesFailed` tells of it by name (default: its index) when the others are through.
        """
        self._running = Run(self, self._ensure_pool(), list(episodes), names)
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
        return sorted(prefills) + sorted(decodes) + self._write_shapes()

    def _write_shapes(self) -> list[tuple]:
        if self.fast is None:
            return []
        rows, tokens = self.fast.cfg.rows, self.fast.cfg.text_tokens
        lengths = {text_tokens(length, tokens) for length in (1, tokens)}
        return sorted({("write", update_rows(n, rows), length) for n in range(1, rows + 1) for length in lengths})

    def compile(self, shape: tuple) -> None:
        """Compiles one of `shapes` by a call that does nothing: no row is active, no page is copied."""
        self._ensure_pool()
        kind, rows, *sizes = shape
        if kind == "write":
            jax.block_until_ready(self._dispatch_write([], rows, sizes[0]))
        elif kind == "prefill":
            seq, past = sizes
            lengths, zeros = np.zeros((2, rows), np.int32)
            places = np.zeros((2, rows * (seq // self.cfg.page_tokens) + self.cfg.slots), np.int32)
            tokens, pages = np.zeros((rows, seq), np.int32), np.zeros((rows, past), np.int32)
            copies = PageCopies(np.int32(0), *places)
            self.prefill(device.PrefillRows(tokens, lengths, pages, zeros, copies, zeros, zeros))
        else:
            listed, words, truncate = sizes
            self.decode(placement.idle_rows(rows, listed, words, has_fast=True), 0, truncate)

    def _ensure_pool(self) -> Pages:
        """The pages of the pool, which is made where there is none."""
        if self.pool is None or self.pages is None:
            self._page_count = self._page_count or self._pool_pages()
            pool = placement.pool_of(self.model, self.cfg, self.mesh, self._page_count, self.device.platform)()
            # Bound to its device like the pools that calls return: else the first call counts as another shape.
            self.pool = pool if self.mesh is not None else jax.device_put(pool, self.device)
            self.pages = Pages(self.pool.pages, self.pool.page)
        return self.pages

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

    def _carried(self, rows: Any) -> tuple[Any, FastPool | None]:
        """The rows with places on the device for the numbers of their fast weights, and the pool that has them; without
        what no row of this engine has."""
        rows = rows if self.roles else rows.replace(adapter=None)
        if self.fast is None:
            return rows.replace(fast=None), None
        if self.fast_pool is None:
            self.fast_pool = placement.fast_pool(
                self.model, self.fast.cfg, self.fast.basis, self.mesh, self.device, self.cfg.slots
            )
        places = np.zeros(len(rows.fast), np.int32)
        for row, number in enumerate(rows.fast.tolist()):
            places[row], is_new = self.fast_places.place(number)
            if is_new:
                memory = self.fast_places.known[number]
                self.fast_pool = self._load(self.fast_pool, np.int32(places[row]), memory)
        return rows.replace(fast=places), self.fast_pool

    def prefill(self, rows: device.PrefillRows) -> None:
        """Dispatches one prefill. The rows' arrays are numpy's."""
        self.stats.prefill_calls += 1
        self.stats.prefilled_tokens += int(rows.lengths.sum())
        self.stats.shapes.add(("prefill", *rows.tokens.shape, rows.past_pages.shape[1]))
        rows, fast = self._carried(rows)
        self.pool = self._prefill(self.params, self.pool, self._put(rows), fast)
        if self.is_timed:
            jax.block_until_ready(self.pool)

    def decode(self, rows: device.DecodeRows, floor: int, truncate: bool) -> device.Sampled:
        """Dispatches one decode of up to `decode_chunk` tokens per row; the result is still on the device."""
        self.stats.decode_calls += 1
        self.stats.shapes.add(("decode", len(rows.token), len(rows.pages), rows.key_words.shape[1], truncate))
        rows, fast = self._carried(rows)
        inputs = self._put((rows, np.int32(floor)))
        self.pool, sampled = self._decode(
            self.params, self.pool, *inputs, fast, steps=self.cfg.decode_chunk, truncate=truncate
        )
        return sampled

    def write(self, updates: Sequence[Update]) -> Any:
        """Dispatches one call for writes of different episodes; the result, for `written`, is still on the device."""
        if self.fast is None:
            raise ValueError("fast weights are written, and the engine has none: config.method.fast.rank")
        longest = max((len(lesson.tokens) for update in updates for lesson in update.lessons), default=1)
        rows = update_rows(len(updates), self.fast.cfg.rows)
        return self._dispatch_write(updates, rows, text_tokens(longest, self.fast.cfg.text_tokens))

    def _dispatch_write(self, updates: Sequence[Update], rows: int, seq: int) -> Any:
        assert self.fast is not None
        cfg, basis = self.fast.cfg, self.fast.basis
        self.stats.updates += len(updates)
        self.stats.update_calls += 1
        self.stats.shapes.add(("write", rows, seq))
        b = empty_memory(self.model, cfg, rows)
        for row, update in enumerate(updates):
            if update.fast != NONE:
                for name, own in self.fast_places.known[update.fast].items():
                    b[name][row] = own
        texts = pad_texts([update.lessons for update in updates], rows, seq, cfg)
        return self._write(self.params, *self._put((FastWeights(basis, b, cfg.scale), texts)))

    def written(self, updates: Sequence[Update], result: Any) -> list[Written]:
        """Takes the snapshots of a call's writes to the host; what their episodes are told."""
        b, losses = jax.device_get(result)
        return [
            Written(
                self.fast_places.add({name: own[row].copy() for name, own in b.items()}), *map(float, losses[:, row])
            )
            for row in range(len(updates))
        ]
