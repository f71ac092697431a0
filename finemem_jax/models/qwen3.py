"""Qwen3, dense: grouped-query attention with RMSNorm on queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from finemem_jax.nn.layers import Transformer, TransformerConfig


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
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=192,
        rope_theta=100.0,
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
