"""Llama 3, 3.1, 3.2 and 3.3, text only: grouped-query attention, rotary frequencies stretched from 3.1 on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from finemem_jax.nn.layers import RopeScaling, Transformer, TransformerConfig
from finemem_jax.weights.hf_config import DECODER_TENSORS, decoder_fields, decoder_json

HF_MODEL_TYPE = "llama"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(TransformerConfig):
    """A Llama 3 model; the defaults are what most published sizes share."""

    family: ClassVar[str] = "llama3"

    vocab_size: int = 128256
    head_dim: int = 128
    num_kv_heads: int = 8
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    max_positions: int = 131072
    bos_token_id: int | None = 128000
    eos_token_ids: tuple[int, ...] = (128001, 128008, 128009)  # <|end_of_text|>, <|eom_id|>, <|eot_id|>
    pad_token_id: int | None = None


Model = Transformer


def _scaling(factor: float) -> RopeScaling:
    return RopeScaling(factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)


def _preset(hidden: int, layers: int, heads: int, mlp: int, **differences: Any) -> Config:
    return Config(hidden_size=hidden, num_layers=layers, num_heads=heads, intermediate_size=mlp, **differences)


_SMALL: dict[str, Any] = {"tie_word_embeddings": True, "rope_scaling": _scaling(32.0)}
_LONG: dict[str, Any] = {"rope_scaling": _scaling(8.0)}

PRESETS: dict[str, Config] = {
    "tiny": Config(
        vocab_size=512,
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=192,
        rope_theta=100.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(),
    ),
    "3.2-1b": _preset(2048, 16, 32, 8192, head_dim=64, **_SMALL),
    "3.2-3b": _preset(3072, 28, 24, 8192, **_SMALL),
    "3-8b": _preset(4096, 32, 32, 14336, max_positions=8192),
    "3.1-8b": _preset(4096, 32, 32, 14336, **_LONG),
    "3.3-70b": _preset(8192, 80, 64, 28672, **_LONG),
    "3.1-405b": _preset(16384, 126, 128, 53248, **_LONG),
}

TENSOR_MAP: dict[str, str] = DECODER_TENSORS


def config_from_hf(hf: Mapping[str, Any]) -> Config:
    """The config of a config.json; raises UserError naming a feature that is not supported."""
    return Config(**decoder_fields(hf))


def config_to_hf(cfg: Config) -> dict[str, Any]:
    """The config.json of a config."""
    return decoder_json(cfg, HF_MODEL_TYPE, "LlamaForCausalLM") | {"mlp_bias": False}
