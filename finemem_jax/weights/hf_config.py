"""config.json of decoder-only models in Hugging Face's Llama layout, to and from our config fields.

What we cannot compute exactly is refused by name: a sliding window or a rotary type read as if it were not there
gives plausible, wrong numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.nn.layers import RopeScaling, TransformerConfig

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


def decoder_fields(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TransformerConfig` that are read the same way in every family. Raises UserError, one line."""
    for key in _REQUIRED:
        if not isinstance(hf.get(key), int):
            raise UserError(f"config.json: {key} must be an integer, got {hf.get(key)!r}")
    refuse_unsupported(hf)
    heads = hf["num_attention_heads"]
    theta, scaling = _rope(hf)
    return {
        "vocab_size": hf["vocab_size"],
        "hidden_size": hf["hidden_size"],
        "num_layers": hf["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": hf.get("num_key_value_heads") or heads,
        "head_dim": hf.get("head_dim") or hf["hidden_size"] // heads,
        "intermediate_size": hf["intermediate_size"],
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rms_norm_eps": float(hf.get("rms_norm_eps", 1e-6)),
        "tie_word_embeddings": bool(hf.get("tie_word_embeddings", False)),
        "max_positions": hf.get("max_position_embeddings", 32768),
        "initializer_range": hf.get("initializer_range", 0.02),
        "bos_token_id": hf.get("bos_token_id"),
        "eos_token_ids": _ids(hf.get("eos_token_id")),
        "pad_token_id": hf.get("pad_token_id"),
    }


def refuse_unsupported(hf: Mapping[str, Any]) -> None:
    """Raises UserError naming the first feature of config.json that the shared transformer does not compute."""
    layer_types = set(hf.get("layer_types") or ()) - {"full_attention"}
    windowed = hf.get("use_sliding_window", hf.get("sliding_window") is not None)
    found = [
        (windowed, "sliding-window attention (use_sliding_window)"),
        (layer_types, f"layer types other than full_attention ({', '.join(sorted(layer_types))})"),
        (any(hf.get(key) for key in _EXPERT_KEYS), "mixture of experts (MoE)"),
        (hf.get("quantization_config"), "quantised weights (quantization_config)"),
        (hf.get("hidden_act", "silu") != "silu", f"hidden_act {hf.get('hidden_act')!r} (only silu)"),
        (hf.get("attention_bias"), "attention_bias"),
        (hf.get("mlp_bias"), "mlp_bias"),
        (hf.get("partial_rotary_factor", 1.0) != 1.0, "partial_rotary_factor other than 1"),
    ]
    for present, feature in found:
        if present:
            raise UserError(f"config.json asks for {feature}, which is not supported")


def _rope(hf: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    # transformers 5 writes rope_parameters; before that, rope_theta stood alone beside rope_scaling.
    rope = {**(hf.get("rope_scaling") or {}), **(hf.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", hf.get("rope_theta", 10000.0))
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UserError("config.json asks for rotary parameters per layer type, which is not supported")
    if kind not in ("default", "llama3"):
        raise UserError(f"config.json asks for rope type {kind!r}, which is not supported; supported: default, llama3")
    if kind == "default":
        return float(theta), None
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    for key in keys:
        if key not in rope:
            raise UserError(f"config.json: rope type llama3 needs {key}")
    factor, low, high, original = (rope[key] for key in keys)
    return float(theta), RopeScaling(
        factor=float(factor), low_freq_factor=float(low), high_freq_factor=float(high), original_max_positions=original
    )


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


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
