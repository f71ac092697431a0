"""Decoder-only models in Hugging Face's Llama layout: config.json to and from our config fields, names of tensors.

What we cannot compute exactly is refused by name: a sliding window or a rotary type read as if it were not there
gives plausible, wrong numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.nn.layers import RopeScaling, TransformerConfig

MAX_LAYERS, MAX_SIZE, MAX_TOKENS = 1000, 1 << 24, 1 << 31  # beyond every model there is; a mistake, and not a model
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")

DECODER_TENSORS: dict[str, str] = {
    "model.embed_tokens.weight": "embedding/table",
    "model.norm.weight": "final_norm/scale",
    "lm_head.weight": "lm_head/kernel",
    "model.layers.{layer}.input_layernorm.weight": "layers/input_norm/scale",
    "model.layers.{layer}.self_attn.q_proj.weight": "layers/attention/q_proj/kernel",
    "model.layers.{layer}.self_attn.k_proj.weight": "layers/attention/k_proj/kernel",
    "model.layers.{layer}.self_attn.v_proj.weight": "layers/attention/v_proj/kernel",
    "model.layers.{layer}.self_attn.o_proj.weight": "layers/attention/o_proj/kernel",
    "model.layers.{layer}.post_attention_layernorm.weight": "layers/post_attention_norm/scale",
    "model.layers.{layer}.mlp.gate_proj.weight": "layers/mlp/gate_proj/kernel",
    "model.layers.{layer}.mlp.up_proj.weight": "layers/mlp/up_proj/kernel",
    "model.layers.{layer}.mlp.down_proj.weight": "layers/mlp/down_proj/kernel",
}
"""Checkpoint tensor -> parameter. A kernel is the transpose of its tensor; `{layer}` is the parameter's first axis.
A family's `TENSOR_MAP` is this and what it has besides."""


def decoder_fields(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TransformerConfig` that are read the same way in every family. Raises UserError, one line."""
    refuse_unsupported(hf)
    vocab_size, hidden = _whole(hf, "vocab_size", 1, MAX_SIZE), _whole(hf, "hidden_size", 1, MAX_SIZE)
    heads = _whole(hf, "num_attention_heads", 1, MAX_SIZE)
    kv_heads = _whole(hf, "num_key_value_heads", 1, MAX_SIZE, heads)
    if heads % kv_heads:
        raise UserError(
            f"config.json: num_attention_heads={heads} must be a multiple of num_key_value_heads={kv_heads}"
        )
    head_dim = _whole(hf, "head_dim", 2, MAX_SIZE, hidden // heads if hidden % heads == 0 else None)
    if head_dim % 2:
        raise UserError(f"config.json: head_dim={head_dim} must be even: rotary positions turn pairs")
    theta, scaling = _rope(hf)
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_layers": _whole(hf, "num_hidden_layers", 1, MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": _whole(hf, "intermediate_size", 1, MAX_SIZE),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rms_norm_eps": _number(hf, "rms_norm_eps", 1e-30, 1.0, 1e-6),
        "tie_word_embeddings": _flag(hf, "tie_word_embeddings"),
        "max_positions": _whole(hf, "max_position_embeddings", 1, MAX_TOKENS, 32768),
        "initializer_range": _number(hf, "initializer_range", 0.0, 10.0, 0.02),
        "bos_token_id": _id(hf, "bos_token_id"),
        "eos_token_ids": _ids(hf, "eos_token_id", vocab_size),
        "pad_token_id": _id(hf, "pad_token_id"),
    }


def _whole(hf: Mapping[str, Any], key: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number from `low` to `high`; the default where the file says nothing. Raises UserError, one line."""
    value = default if hf.get(key) is None else hf[key]
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"config.json: {key} must be a whole number from {low} to {high}, got {_shown(hf.get(key))}")
    return value


def _number(hf: Mapping[str, Any], key: str, low: float, high: float, default: float | None = None) -> float:
    """A number above `low` and below `high`; the default where the file says nothing. Raises UserError, one line.

    The bounds keep what is computed from it in float32 finite: there 1e-300 is 0, and one over it infinite."""
    value = default if hf.get(key) is None else hf[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not low < value < high:  # NaN is neither
        got = _shown(hf.get(key))
        raise UserError(f"config.json: {key} must be a number above {low:g} and below {high:g}, got {got}")
    return float(value)


def _flag(hf: Mapping[str, Any], key: str) -> bool:
    value = hf.get(key)
    if value not in (None, True, False) or type(value) not in (type(None), bool):
        raise UserError(f"config.json: {key} must be true or false, got {_shown(value)}")
    return bool(value)


def _id(hf: Mapping[str, Any], key: str) -> int | None:
    """A token's id. Some published files write -1 for none, some an id beyond the vocabulary that they never use."""
    value = hf.get(key)
    if value is None or (type(value) is int and value == -1):
        return None
    return _whole(hf, key, 0, MAX_TOKENS)


def _ids(hf: Mapping[str, Any], key: str, vocab_size: int) -> tuple[int, ...]:
    """The tokens that end a text: one, several or none."""
    value = hf.get(key)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(token) is int and 0 <= token < vocab_size for token in ids):
        raise UserError(
            f"config.json: {key} must be ids from 0 to {vocab_size - 1} (vocab_size - 1), or none, got {_shown(value)}"
        )
    return tuple(ids)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


def refuse_unsupported(hf: Mapping[str, Any]) -> None:
    """Raises UserError naming the first feature of config.json that the shared transformer does not compute."""
    types = hf.get("layer_types")
    if not (types is None or (isinstance(types, list) and all(isinstance(kind, str) for kind in types))):
        raise UserError(f"config.json: layer_types must be a list of names, got {_shown(types)}")
    layer_types = set(types or ()) - {"full_attention"}
    activation = "silu" if hf.get("hidden_act") is None else hf["hidden_act"]
    says = _flag(hf, "use_sliding_window") if hf.get("use_sliding_window") is not None else None
    windowed = hf.get("sliding_window") is not None if says is None else says
    found = [
        (windowed, "sliding-window attention (use_sliding_window)"),
        (layer_types, f"layer types other than full_attention ({', '.join(sorted(layer_types))})"),
        (any(hf.get(key) for key in _EXPERT_KEYS), "mixture of experts (MoE)"),
        (hf.get("quantization_config"), "quantised weights (quantization_config)"),
        (activation != "silu", f"hidden_act {_shown(activation)} (only silu)"),
        (_flag(hf, "attention_bias"), "attention_bias"),
        (_flag(hf, "mlp_bias"), "mlp_bias"),
        (hf.get("partial_rotary_factor") not in (None, 1.0), "partial_rotary_factor other than 1"),
    ]
    for present, feature in found:
        if present:
            raise UserError(f"config.json asks for {feature}, which is not supported")


def _rope(hf: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    # transformers 5 writes rope_parameters; before that, rope_theta stood alone beside rope_scaling.
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = hf.get(name)
        if not (given is None or isinstance(given, Mapping)):
            raise UserError(f"config.json: {name} must be an object, got {_shown(given)}")
        rope |= given or {}
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UserError("config.json asks for rotary parameters per layer type, which is not supported")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        shown = _shown(kind)
        raise UserError(f"config.json asks for rope type {shown}, which is not supported; supported: default, llama3")
    theta = _number({"rope_theta": hf.get("rope_theta", 1e4)} | rope, "rope_theta", 1.0, 1e15)
    if kind == "default":
        return theta, None
    for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
        if key not in rope:
            raise UserError(f"config.json: rope type llama3 needs {key}")
    low, high = (_number(rope, f"{name}_freq_factor", 1e-6, 1e6) for name in ("low", "high"))
    if low >= high:
        raise UserError(f"config.json: low_freq_factor={low:g} must be below high_freq_factor={high:g}")
    return theta, RopeScaling(
        factor=_number(rope, "factor", 1e-3, 1e6),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=_whole(rope, "original_max_position_embeddings", 1, MAX_TOKENS),
    )


def decoder_json(cfg: TransformerConfig, model_type: str, architecture: str) -> dict[str, Any]:
    """The content of config.json that every family shares, readable by transformers 4 and 5, vLLM and SGLang."""
    scaling = cfg.rope_scaling
    eos = list(cfg.eos_token_ids)
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.intermediate_size,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": cfg.initializer_range,
        "max_position_embeddings": cfg.max_positions,
        "rms_norm_eps": cfg.rms_norm_eps,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": None
        if scaling is None
        else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        },
        "tie_word_embeddings": cfg.tie_word_embeddings,
        "bos_token_id": cfg.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": cfg.pad_token_id,
        "use_cache": True,
        "torch_dtype": cfg.param_dtype,
    }
