"""Qwen3, dense: grouped-query attention with RMSNorm on queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from finemem_jax.nn.layers import Transformer, TransformerConfig
from finemem_jax.weights.hf_config import DECODER_TENSORS, decoder_fields, decoder_json

HF_MODEL_TYPE = "qwen3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(TransformerConfig):
    """A Qwen3 model; the defaults are what all published sizes share."""

    family: ClassVar[str] = "qwen3"

    vocab_size: int = 151936
    head_dim: int = 128
    num_kv_heads: int = 8
    rope_theta: float = 1e6
    qk_norm: bool = True
    bos_token_id: int | None = 151643
    eos_token_ids: tuple[int, ...] = (151645, 151643)  # <|im_end|>, <|endoftext|>
    pad_token_id: int | None = 151643


Model = Transformer


def _preset(hidden: int, layers: int, heads: int, mlp: int, tied: bool) -> Config:
    return Config(
        hidden_size=hidden, num_layers=layers, num_heads=heads, intermediate_size=mlp, tie_word_embeddings=tied
    )


PRESETS: dict[str, Config] = {
    "tiny": Config(
        vocab_size=512,
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,  # more than hidden / heads: matching one token among hundreds needs the room
        intermediate_size=192,
        rope_theta=100.0,
        initializer_range=0.1,  # about 1 / sqrt(hidden); 0.02 leaves so narrow a model on a plateau
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
    ),
    "0.6b": _preset(1024, 28, 16, 3072, tied=True),
    "1.7b": _preset(2048, 28, 16, 6144, tied=True),
    "4b": _preset(2560, 36, 32, 9728, tied=True),
    "8b": _preset(4096, 36, 32, 12288, tied=False),
    "14b": _preset(5120, 40, 40, 17408, tied=False),
    "32b": _preset(5120, 64, 64, 25600, tied=False),
}

TENSOR_MAP: dict[str, str] = DECODER_TENSORS | {
    "model.layers.{layer}.self_attn.q_norm.weight": "layers/attention/q_norm/scale",
    "model.layers.{layer}.self_attn.k_norm.weight": "layers/attention/k_norm/scale",
}


def config_from_hf(hf: Mapping[str, Any]) -> Config:
    """The config of a config.json; raises UserError naming a feature that is not supported."""
    return Config(**decoder_fields(hf))


def config_to_hf(cfg: Config) -> dict[str, Any]:
    """The config.json of a config."""
    return decoder_json(cfg, HF_MODEL_TYPE, "Qwen3ForCausalLM") | {"use_sliding_window": False, "sliding_window": None}
