"""The device side of decoding: slots with a KV cache, filled by `prefill`, advanced by `decode`.

A slot is a row of the cache and everything its completion needs. The host (`engine.py`) decides which request goes
into which slot; nothing here knows about requests.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from finemem_jax.decoding.sampling import NO_STOP, RowSampling, is_stop, sample
from finemem_jax.nn.kv_cache import KVCache


@flax.struct.dataclass
class Slots:
    """State of all slots between device calls."""

    cache: KVCache  # holds prompt and sampled tokens, all but the last of them
    token: Any  # [rows] int32: that last one, fed next
    count: Any  # [rows] int32: tokens sampled so far
    is_active: Any  # [rows] bool: still sampling
    sampling: RowSampling


@flax.struct.dataclass
class Placement:
    """Which prefilled prompt goes into which slots, and how each is to be sampled. Entry i of n places one slot."""

    n: Any  # [] int32: entries in use
    source: Any  # [entries] int32: row of the prefilled prompt
    slot: Any  # [entries] int32: unused entries name a slot that does not exist
    token: Any  # [entries] int32: the prompt's last token
    sampling: RowSampling


@flax.struct.dataclass
class Sampled:
    """What a decode call sampled: for each slot the first `emitted` of its tokens are valid."""

    tokens: Any  # [steps, rows] int32
    logprobs: Any  # [steps, rows] float32
    emitted: Any  # [rows] int32
    steps: Any  # [] int32: decode steps that were run


def empty_slots(model: nn.Module, rows: int, capacity: int, stops: int) -> Slots:
    """`rows` idle slots of `capacity` tokens each, with room for `stops` stop tokens."""
    sampling = RowSampling(
        key=jnp.zeros((rows, 2), jnp.uint32),
        temperature=jnp.ones((rows,), jnp.float32),
        top_k=jnp.zeros((rows,), jnp.int32),
        top_p=jnp.ones((rows,), jnp.float32),
        max_tokens=jnp.zeros((rows,), jnp.int32),
        min_tokens=jnp.zeros((rows,), jnp.int32),
        stop_tokens=jnp.full((rows, stops), NO_STOP, jnp.int32),
    )
    return Slots(
        cache=KVCache.create(model.cfg, rows, capacity, model.cfg.dtype),
        token=jnp.zeros((rows,), jnp.int32),
        count=jnp.zeros((rows,), jnp.int32),
        is_active=jnp.zeros((rows,), bool),
        sampling=sampling,
    )


def prefill(
    model: nn.Module,
    params: Any,
    slots: Slots,
    tokens: Int[Array, "prompts seq"],
    lengths: Int[Array, "prompts"],
    placement: Placement,
) -> Slots:
    """Runs right-padded prompts without their last tokens and copies each one's cache into its slots.

    A prompt is run once however many slots it goes to: the G samples of a group share it. Its last token is the
    first that `decode` feeds, so that sampling is compiled with decoding alone and not once per prompt length.
    """
    prompts, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    segment_ids = (positions < lengths[:, None]).astype(jnp.int32)
    cache = KVCache.create(model.cfg, prompts, length, slots.cache.keys.dtype)
    _, cache = model.apply(
        {"params": params}, tokens, positions, segment_ids, cache=cache, attend_to=0, method="hidden_states"
    )

    def place(old: Array, new: Array) -> Array:
        return old.at[placement.slot].set(new, mode="drop")

    return Slots(
        cache=_copy_rows(slots.cache, cache, placement),
        token=place(slots.token, placement.token),
        count=place(slots.count, jnp.zeros_like(placement.slot)),
        is_active=place(slots.is_active, jnp.ones_like(placement.slot, dtype=bool)),
        sampling=jax.tree.map(place, slots.sampling, placement.sampling),
    )


def _copy_rows(target: KVCache, source: KVCache, placement: Placement) -> KVCache:
    """Cache rows of the prefilled prompts written over the slots they were placed in.

    A loop over the entries in use touches only what is copied, and compiles once for any number of them."""

    def copy(index: Array, target: KVCache) -> KVCache:
        row, slot = placement.source[index], placement.slot[index]

        def over_layers(old: Array, new: Array) -> Array:  # [layers, rows, capacity, kv_heads, head_dim]
            new = jax.lax.dynamic_slice_in_dim(new, row, 1, axis=1)
            return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, slot, 0, 0, 0))

        segment_ids = jnp.pad(source.segment_ids[row], (0, target.segment_ids.shape[1] - source.segment_ids.shape[1]))
        return target.replace(
            keys=over_layers(target.keys, source.keys),
            values=over_layers(target.values, source.values),
            segment_ids=target.segment_ids.at[slot].set(segment_ids),
            lengths=target.lengths.at[slot].set(source.lengths[row]),
        )

    return jax.lax.fori_loop(0, placement.n, copy, target)


def decode(
    model: nn.Module,
    params: Any,
    slots: Slots,
    floor: Int[Array, ""],
    *,
    steps: int,
    attend_to: int,
    truncate: bool,
) -> tuple[Slots, Sampled]:
    """Up to `steps` tokens for every active slot, without a word to the host.

    Ends early when no more than `floor` slots are active: 0 to run them all out, more when others wait for a slot.
    attend_to: static; no active slot may reach more tokens than this within the call.
    """
    rows = len(slots.token)

    def is_wanted(state: tuple[Slots, Sampled]) -> Array:
        slots, sampled = state
        return (sampled.steps < steps) & (jnp.sum(slots.is_active) > floor)

    def one_token(state: tuple[Slots, Sampled]) -> tuple[Slots, Sampled]:
        slots, sampled = state
        active = slots.is_active.astype(jnp.int32)
        hidden, cache = model.apply(
            {"params": params},
            slots.token[:, None],
            slots.cache.lengths[:, None],
            active[:, None],
            cache=slots.cache,
            attend_to=attend_to,
            method="hidden_states",
        )
        logits = model.apply({"params": params}, hidden, method="unembed")[:, 0]
        token, logprobs = sample(logits, slots.sampling, slots.count, truncate=truncate)
        count = slots.count + active
        is_done = is_stop(token, slots.sampling.stop_tokens) | (count >= slots.sampling.max_tokens)
        sampled = Sampled(
            tokens=sampled.tokens.at[sampled.steps].set(token),
            logprobs=sampled.logprobs.at[sampled.steps].set(logprobs),
            emitted=sampled.emitted + active,
            steps=sampled.steps + 1,
        )
        slots = slots.replace(
            cache=cache,
            token=jnp.where(slots.is_active, token, slots.token),
            count=count,
            is_active=slots.is_active & ~is_done,
        )
        return slots, sampled

    nothing = Sampled(
        tokens=jnp.zeros((steps, rows), jnp.int32),
        logprobs=jnp.zeros((steps, rows), jnp.float32),
        emitted=jnp.zeros((rows,), jnp.int32),
        steps=jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(is_wanted, one_token, (slots, nothing))


def move_slots(slots: Slots, index: Int[Array, "new_rows"]) -> Slots:
    """Slots in another number of rows: row i is the old row index[i]; -1 makes an idle row."""
    is_kept = index >= 0
    index = jnp.maximum(index, 0)
    cache = slots.cache
    moved = slots.replace(
        cache=cache.replace(
            keys=cache.keys[:, index],
            values=cache.values[:, index],
            segment_ids=cache.segment_ids[index],
            lengths=cache.lengths[index],
        ),
        token=slots.token[index],
        count=slots.count[index],
        sampling=jax.tree.map(lambda x: x[index], slots.sampling),
    )
    return moved.replace(is_active=slots.is_active[index] & is_kept)
