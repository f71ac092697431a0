"""Qwen2 and Qwen2.5: grouped-query attention with biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from finemem_jax.nn.layers import Transformer, TransformerConfig
from finemem_jax.weights.hf_config import DECODER_TENSORS, decoder_fields, decoder_json

HF_MODEL_TYPE = "qwen2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(TransformerConfig):
    """A Qwen2.5 model; the defaults are what most published sizes share."""

    family: ClassVar[str] = "qwen2"

    vocab_size: int = 152064
    head_dim: int = 128
    rope_theta: float = 1e6
    tie_word_embeddings: bool = False
    qkv_bias: bool = True
    max_positions: int = 32768
    bos_token_id: int | None = 151643
    eos_token_ids: tuple[int, ...] = (151645, 151643)  # <|im_end|>, <|endoftext|>
    pad_token_id: int | None = 151643


Model = Transformer


def _preset(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, **differences: Any) -> Config:
    return Config(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=mlp,
        **differences,
    )


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
        pad_token_id=None,
    ),
    # The small sizes are tied and have a smaller table.
    "0.5b": _preset(896, 24, 14, 2, 4864, head_dim=64, vocab_size=151936, tie_word_embeddings=True),
    "1.5b": _preset(1536, 28, 12, 2, 8960, vocab_size=151936, tie_word_embeddings=True),
    "3b": _preset(2048, 36, 16, 2, 11008, vocab_size=151936, tie_word_embeddings=True),
    "7b": _preset(3584, 28, 28, 4, 18944),
    "14b": _preset(5120, 48, 40, 8, 13824),
    "32b": _preset(5120, 64, 40, 8, 27648),
    "72b": _preset(8192, 80, 64, 8, 29568),
}

TENSOR_MAP: dict[str, str] = DECODER_TENSORS | {
    "model.layers.{layer}.self_attn.q_proj.bias": "layers/attention/q_proj/bias",
    "model.layers.{layer}.self_attn.k_proj.bias": "layers/attention/k_proj/bias",
    "model.layers.{layer}.self_attn.v_proj.bias": "layers/attention/v_proj/bias",
}


def config_from_hf(hf: Mapping[str, Any]) -> Config:
    """The config of a config.json; raises UserError naming a feature that is not supported."""
    return Config(**decoder_fields(hf))


def config_to_hf(cfg: Config) -> dict[str, Any]:
    """The config.json of a config."""
    return decoder_json(cfg, HF_MODEL_TYPE, "Qwen2ForCausalLM") | {"use_sliding_window": False, "sliding_window": None}
