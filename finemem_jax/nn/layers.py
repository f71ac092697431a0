"""The decoder-only transformer that the model families share; a family is a set of flags (`TransformerConfig`).

Parameters are one plain nested dict. The layers are scanned: every leaf under `layers` has a leading layer axis,
so 36 layers compile like one. Compute runs in `cfg.dtype`; norms, softmax, rotary angles and logits in float32.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from finemem_jax.config import LoraConfig
from finemem_jax.nn.attention import attention
from finemem_jax.nn.decode_attention import decode_attention
from finemem_jax.nn.fast_weights import FastWeights
from finemem_jax.nn.kv_cache import KVCache
from finemem_jax.nn.mesh import split_rows
from finemem_jax.nn.paged_cache import DecodeCache, PrefillCache

Tokens = Int[Array | np.ndarray, "rows seq"]
"""What the model takes per token: ids, positions or segment ids."""

Cache = KVCache | PrefillCache | DecodeCache

REMAT_POLICIES: dict[str, Callable | None] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of low rotary frequencies, for contexts longer than those of pretraining."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Shape and numerics of a model. Families subclass it to set their flags and defaults."""

    family: ClassVar[str] = ""  # the file in models/

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    qk_norm: bool = False  # RMSNorm over head_dim on queries and keys, before the rotation
    qkv_bias: bool = False
    max_positions: int = 40960  # longest context the weights were made for; written on export, not enforced
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    dtype: str = "float32"  # compute dtype: float32 | bfloat16
    param_dtype: str = "float32"  # dtype parameters are stored in: float32 | bfloat16
    remat: str = "none"  # what the backward pass recomputes: none | full | dots (all but matmul results)
    initializer_range: float = 0.02  # standard deviation of random kernels and embeddings
    lora: LoraConfig = field(default_factory=LoraConfig)


# --------------------------------------------------------------------------------------------------------------
# Parameters and their logical axes
# --------------------------------------------------------------------------------------------------------------

_recorded_axes: contextvars.ContextVar[dict[tuple[str, ...], tuple[str, ...]] | None] = contextvars.ContextVar(
    "recorded_axes", default=None
)


def declare(
    module: nn.Module, name: str, axes: tuple[str, ...], init: Callable, shape: tuple[int, ...], dtype: str
) -> Array:
    """A parameter of `module`: its name, logical axes, initialiser, shape and stored dtype in one place."""
    record = _recorded_axes.get()
    if record is not None:
        record[(*module.path, name)] = axes
    return module.param(name, init, shape, jnp.dtype(dtype))


def abstract_params(model: nn.Module) -> dict:
    """The parameter tree as `jax.ShapeDtypeStruct`s; nothing is allocated."""
    return jax.tree.map(lambda leaf: leaf, _declared(model)[0])


def logical_axes(model: nn.Module) -> dict:
    """The parameter tree with a tuple of axis names at each leaf, e.g. ("layers", "embed", "heads")."""
    shapes, record = _declared(model)

    def axes_of(path: tuple, leaf: jax.ShapeDtypeStruct) -> tuple[str, ...]:
        names = tuple(key.key for key in path)
        axes = record[names]
        return ("layers", *axes) if names[0] == "layers" else axes

    return jax.tree_util.tree_map_with_path(axes_of, shapes)


@lru_cache(maxsize=1024)  # tracing a model costs more than all else that is asked of its shapes
def _declared(model: nn.Module) -> tuple[dict, dict[tuple[str, ...], tuple[str, ...]]]:
    """(the parameter tree's shapes, the axes that each parameter was declared with)."""
    record: dict[tuple[str, ...], tuple[str, ...]] = {}
    reset = _recorded_axes.set(record)
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    try:
        shapes = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), token, token, token)["params"]
    finally:
        _recorded_axes.reset(reset)
    return shapes, record


# --------------------------------------------------------------------------------------------------------------
# Layers
# --------------------------------------------------------------------------------------------------------------

# As PEFT: within 1 / sqrt(in).
_lora_a_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_lora_a_of_roles_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, in float32; the result has the dtype of `x`."""

    cfg: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
        scale = declare(self, "scale", ("norm",), nn.initializers.ones, x.shape[-1:], self.cfg.param_dtype)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.cfg.rms_norm_eps)
        return (y * scale.astype(jnp.float32)).astype(x.dtype)


class Adapter(nn.Module):
    """x @ a @ b * alpha / rank: the low-rank update of one projection (LoRA, arXiv 2106.09685).

    Shared by all rows (`a [in, rank]`, `b [rank, out]`), one per row (`a [rows, in, rank]`, `b [rows, rank, out]`; nn/
    lora.py makes both), or one per role (`cfg.lora.roles`: `a [adapters, in, rank]`, `b [adapters, rank, out]`), and
    then `number` says whose each token is.
    """

    cfg: TransformerConfig
    features: int
    axes: tuple[str, str]

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows seq in"], number: Int[Array, "rows #seq"] | None = None
    ) -> Float[Array, "rows seq out"]:
        lora, stored = self.cfg.lora, self.cfg.param_dtype
        if self.is_initializing():
            # b starts at 0: an untrained adapter changes nothing.
            count, names = ((len(lora.roles),), ("adapters",)) if lora.roles else ((), ())
            a_init, a_shape = _lora_a_of_roles_init if count else _lora_a_init, (*count, x.shape[-1], lora.rank)
            declare(self, "a", (*names, self.axes[0], "lora"), a_init, a_shape, stored)
            b_shape = (*count, lora.rank, self.features)
            declare(self, "b", (*names, "lora", self.axes[1]), nn.initializers.zeros, b_shape, stored)
        # Not self.param, which would refuse the extra axis of per-row adapters.
        a = self.get_variable("params", "a").astype(x.dtype)
        b = self.get_variable("params", "b").astype(x.dtype)
        if not lora.roles:
            return (x @ a) @ b * (lora.alpha / a.shape[-1])
        if number is None:
            if not self.is_initializing():
                raise ValueError(f"the model has an adapter for each of {lora.roles}: say whose each row is (adapter=)")
            number = jnp.zeros((1, 1), jnp.int32)
        # All adapters' low ranks side by side, those of the others set to 0: for a few roles less work than to gather
        # matrices of its own for every token.
        low = jnp.einsum("rsi,kil->rskl", x, a)  # [rows, seq, adapters, rank]
        low = low * (number[..., None] == jnp.arange(a.shape[0]))[..., None]
        return jnp.einsum("rskl,klo->rso", low, b) * (lora.alpha / a.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(
    x: Float[Array, "*shape in"], kernel: Float[Array, "in out"], result: str | None = None
) -> Float[Array, "*shape out"]:
    """x @ kernel, with the kernel's gradient as the product x^T g. result: dtype of the sums, where it is not that of
    `x`; gradients are multiplied in the dtype of `x` all the same.

    JAX itself writes it as (g^T x)^T. XLA's CPU compiler then makes g^T by computing g a second time in that order,
    with all elementwise work before it: the backward pass of a SwiGLU block took 1.7 times as long.
    """
    return jnp.matmul(x, kernel, preferred_element_type=result)


def _matmul_forward(x: Array, kernel: Array, result: str | None) -> tuple[Array, tuple[Array, Array]]:
    return matmul(x, kernel, result), (x, kernel)


def _matmul_backward(result: str | None, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    gradient = gradient.astype(x.dtype)
    return jnp.einsum("...o,io->...i", gradient, kernel), jnp.einsum("rsi,rso->io", x, gradient)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(nn.Module):
    """x @ kernel (+ bias) (+ adapter). The adapter is used when the parameters hold one: drop it from the tree and
    the same model is the frozen base. result: dtype of what comes out (default: the compute dtype)."""

    cfg: TransformerConfig
    features: int
    axes: tuple[str, str]
    use_bias: bool = False
    result: str = ""

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows seq in"], adapter: Int[Array, "rows #seq"] | None = None
    ) -> Float[Array, "rows seq out"]:
        dtype, stored = jnp.dtype(self.cfg.dtype), self.cfg.param_dtype
        result = jnp.dtype(self.result or dtype)
        shape = (x.shape[-1], self.features)
        init = nn.initializers.normal(self.cfg.initializer_range)
        kernel = declare(self, "kernel", self.axes, init, shape, stored).astype(dtype)
        y = matmul(x, kernel, None if result == dtype else result.name)
        if self.has_variable("params", "kernel_scale"):  # int8 weights of decoding, see nn/quantize.py
            y = (y.astype(jnp.float32) * self.get_variable("params", "kernel_scale")).astype(result)
        if self.use_bias:
            y = y + declare(self, "bias", self.axes[1:], nn.initializers.zeros, shape[1:], stored).astype(dtype)
        lora = self.cfg.lora
        wanted = self.is_initializing() and lora.rank > 0 and self.name in lora.targets
        if wanted or self.has_variable("params", "lora"):
            y = y + Adapter(self.cfg, self.features, self.axes, name="lora")(x, adapter)
        return y


@flax.struct.dataclass
class LayerInputs:
    """What every layer sees besides the hidden states."""

    cos: Any  # [rows, seq, head_dim / 2] float32
    sin: Any  # [rows, seq, head_dim / 2] float32
    segment_ids: Any  # [rows, seq] int32
    past: KVCache | PrefillCache | None  # tokens before this call, which the layers only read
    attend_to: int = flax.struct.field(pytree_node=False)  # slots of a KVCache that are read
    fast: FastWeights | None = None  # what rows carry of their own in the last layers
    adapter: Any = (
        None  # [rows, seq] or [rows, 1] int32: place of each token's role in cfg.lora.roles, if there are any
    )


class Attention(nn.Module):
    """Grouped-query self-attention; returns its output, the call's rotated keys and values, and the decode cache with
    them (None where there is none)."""

    cfg: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows seq embed"], layer: Int[Array, ""], inputs: LayerInputs, cache: DecodeCache | None
    ) -> tuple[Array, tuple[Array, Array], DecodeCache | None]:
        cfg = self.cfg
        rows, seq, _ = x.shape

        def project(name: str, heads: int, axis: str) -> Array:
            y = Linear(cfg, heads * cfg.head_dim, ("embed", axis), cfg.qkv_bias, name=name)(x, inputs.adapter)
            return y.reshape(rows, seq, heads, cfg.head_dim)

        q = project("q_proj", cfg.num_heads, "heads")
        k = project("k_proj", cfg.num_kv_heads, "kv_heads")
        v = project("v_proj", cfg.num_kv_heads, "kv_heads")
        if cfg.qk_norm:
            q = RMSNorm(cfg, name="q_norm")(q)
            k = RMSNorm(cfg, name="k_norm")(k)
        q = rotate(q, inputs.cos, inputs.sin)
        k = rotate(k, inputs.cos, inputs.sin)
        if cache is not None:
            cache = cache.write(layer, k[:, 0], v[:, 0])
            out = decode_attention(q[:, 0], cache, layer)
        else:
            out = attention(q, k, v, inputs.segment_ids, _read(inputs, layer))
        out = out.reshape(rows, seq, cfg.num_heads * cfg.head_dim)
        projected = Linear(cfg, cfg.hidden_size, ("heads", "embed"), name="o_proj")(out, inputs.adapter)
        return projected, (k, v), cache


def _read(inputs: LayerInputs, layer: Array) -> tuple[Array, Array, Array] | None:
    if isinstance(inputs.past, KVCache):
        return inputs.past.read(layer, inputs.attend_to)
    return None if inputs.past is None else inputs.past.read(layer)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    cfg: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "rows seq embed"],
        layer: Int[Array, ""],
        fast: FastWeights | None,
        adapter: Int[Array, "rows #seq"] | None,
    ) -> Float[Array, "rows seq embed"]:
        cfg = self.cfg

        def project(name: str, x: Array, features: int, axes: tuple[str, str]) -> Array:
            y = Linear(cfg, features, axes, name=name)(x, adapter)
            return y if fast is None else y + fast.term(name, x, layer - (cfg.num_layers - fast.layers))

        gate = project("gate_proj", x, cfg.intermediate_size, ("embed", "mlp"))
        up = project("up_proj", x, cfg.intermediate_size, ("embed", "mlp"))
        return project("down_proj", nn.silu(gate) * up, cfg.hidden_size, ("mlp", "embed"))


class Layer(nn.Module):
    """Pre-norm attention and MLP, each with a residual; the body of the scan over layers, which carries the hidden
    states and, when decoding, the cache."""

    cfg: TransformerConfig

    @nn.compact
    def __call__(self, carry: tuple[Array, DecodeCache | None], layer: Int[Array, ""], inputs: LayerInputs):
        cfg = self.cfg
        x, cache = carry
        x = split_rows(x)
        normed = RMSNorm(cfg, name="input_norm")(x)
        attended, new, cache = Attention(cfg, name="attention")(normed, layer, inputs, cache)
        x = x + attended
        x = x + MLP(cfg, name="mlp")(RMSNorm(cfg, name="post_attention_norm")(x), layer, inputs.fast, inputs.adapter)
        return (x, cache), (new if inputs.past is not None else None)


class Transformer(nn.Module):
    """tokens, positions, segment_ids `[rows, seq]` int32 -> logits `[rows, seq, vocab]` float32.

    Segment 0 is padding; the segments of a packed row do not see each other; within a segment a token sees
    those before it in the row. With a cache, also the cached tokens of its segment, and the result is
    (logits, cache with this call's tokens). Of a `KVCache` the first `attend_to` slots are read: at least the longest
    row's length; 0 for the first prefill, the capacity when None. Attention costs what it says. Of a `PrefillCache` the
    result is this call's keys and values alone; a `DecodeCache` takes one token per row. fast: what rows carry of their
    own in the last layers (nn/fast_weights.py). adapter: of each token or row its role's place in `cfg.lora.roles`,
    where there are any; without adapters in the parameters it says nothing.
    """

    cfg: TransformerConfig

    def setup(self) -> None:
        cfg = self.cfg
        body = Layer
        if cfg.remat != "none":
            body = nn.remat(Layer, prevent_cse=False, policy=REMAT_POLICIES[cfg.remat])
        self.embedding = Embedding(cfg)
        self.layers = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=cfg.num_layers,
        )(cfg)
        self.final_norm = RMSNorm(cfg)
        if not cfg.tie_word_embeddings:
            self.lm_head = Linear(cfg, cfg.vocab_size, ("embed", "vocab"), result="float32")

    def __call__(
        self,
        tokens: Tokens,
        positions: Tokens,
        segment_ids: Tokens,
        cache: Cache | None = None,
        attend_to: int | None = None,
        fast: FastWeights | None = None,
        adapter: Int[Array | np.ndarray, "rows #seq"] | None = None,
    ) -> Float[Array, "rows seq vocab"] | tuple[Float[Array, "rows seq vocab"], Any]:
        hidden = self.hidden_states(tokens, positions, segment_ids, cache, attend_to, fast, adapter)
        if cache is None:
            return self.unembed(hidden)
        return self.unembed(hidden[0]), hidden[1]

    def hidden_states(
        self,
        tokens: Tokens,
        positions: Tokens,
        segment_ids: Tokens,
        cache: Cache | None = None,
        attend_to: int | None = None,
        fast: FastWeights | None = None,
        adapter: Int[Array | np.ndarray, "rows #seq"] | None = None,
    ) -> Float[Array, "rows seq embed"] | tuple[Float[Array, "rows seq embed"], Any]:
        """The last layer's output after the final norm, in the compute dtype; (hidden, cache) with a cache."""
        cfg = self.cfg
        tokens, positions, segment_ids = map(jnp.asarray, (tokens, positions, segment_ids))
        adapter = None if adapter is None or not cfg.lora.roles else jnp.asarray(adapter)
        cos, sin = rope_angles(positions, cfg)
        if attend_to is None:
            attend_to = cache.capacity if isinstance(cache, KVCache) else 0
        decoding = cache if isinstance(cache, DecodeCache) else None
        inputs = LayerInputs(cos, sin, segment_ids, cache if decoding is None else None, attend_to, fast, adapter)
        (x, decoding), new = self.layers((self.embedding(tokens), decoding), jnp.arange(cfg.num_layers), inputs)
        x = self.final_norm(x)
        if cache is None:
            return x
        return x, (decoding if isinstance(cache, DecodeCache) else cache.append(*new, segment_ids))

    def embed(self, tokens: Int[Array, "rows seq"]) -> Float[Array, "rows seq embed"]:
        """What the first layer reads."""
        return self.embedding(tokens)

    def normed(self, hidden: Float[Array, "rows seq embed"]) -> Float[Array, "rows seq embed"]:
        """What `unembed` reads, from what the last layer gave."""
        return self.final_norm(hidden)

    def head_params(self, params: dict) -> dict:
        """The part of the parameters that `unembed` reads."""
        name = "embedding" if self.cfg.tie_word_embeddings else "lm_head"
        return {name: params[name]}

    def unembed(self, hidden: Float[Array, "*shape embed"]) -> Float[Array, "*shape vocab"]:
        """Logits of hidden states, float32 (accumulated in float32 when the compute dtype is bfloat16)."""
        if self.cfg.tie_word_embeddings:
            return self.embedding.attend(hidden)
        return self.lm_head(hidden)


class Embedding(nn.Module):
    """Token embedding `[vocab, embed]`, and its transpose as the output head when the two are tied."""

    cfg: TransformerConfig

    def setup(self) -> None:
        cfg = self.cfg
        shape = (cfg.vocab_size, cfg.hidden_size)
        init = nn.initializers.normal(cfg.initializer_range)
        self.table = declare(self, "table", ("vocab", "embed"), init, shape, cfg.param_dtype)

    def __call__(self, tokens: Int[Array, "rows seq"]) -> Float[Array, "rows seq embed"]:
        rows = jnp.take(self.table, tokens, axis=0)
        if self.has_variable("params", "table_scale"):
            rows = rows * self.get_variable("params", "table_scale")[tokens][..., None]
        return rows.astype(self.cfg.dtype)

    def attend(self, hidden: Float[Array, "*shape embed"]) -> Float[Array, "*shape vocab"]:
        table = self.table.astype(hidden.dtype)
        logits = jnp.einsum("...e,ve->...v", hidden, table, preferred_element_type=jnp.float32)
        if self.has_variable("params", "table_scale"):
            logits = logits * self.get_variable("params", "table_scale")
        return logits


# --------------------------------------------------------------------------------------------------------------
# Rotary position embedding
# --------------------------------------------------------------------------------------------------------------


def rope_frequencies(cfg: TransformerConfig) -> np.ndarray:
    """Angular frequency of each pair of head dimensions, `[head_dim / 2]` float32, radians per position."""
    freqs = 1.0 / cfg.rope_theta ** (np.arange(0, cfg.head_dim, 2, dtype=np.float32) / cfg.head_dim)
    scaling = cfg.rope_scaling
    if scaling is None:
        return freqs.astype(np.float32)
    # Wavelengths beyond the pretraining context are stretched by `factor`, short ones kept, those between blended.
    turns = scaling.original_max_positions * freqs / (2 * np.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    return (keep * freqs + (1 - keep) * freqs / scaling.factor).astype(np.float32)


def rope_angles(
    positions: Int[Array, "rows seq"], cfg: TransformerConfig
) -> tuple[Float[Array, "rows seq half"], Float[Array, "rows seq half"]]:
    """Cosine and sine of the rotary angles. float32: a bfloat16 position is wrong from 257 on."""
    angles = positions.astype(jnp.float32)[..., None] * rope_frequencies(cfg)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "rows seq heads head_dim"], cos: Float[Array, "rows seq half"], sin: Float[Array, "rows seq half"]
) -> Float[Array, "rows seq heads head_dim"]:
    """x with dimension pairs (i, i + head_dim/2) rotated by the angle of its position."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
