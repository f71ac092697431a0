"""An exported adapter folder in `peft`, and the merged export in transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity extra is not installed: pip install finemem_jax[parity]")
peft = pytest.importorskip("peft", reason="the parity extra is not installed: pip install finemem_jax[parity]")
import transformers  # noqa: E402

from finemem_jax.config import LoraConfig  # noqa: E402
from finemem_jax.nn import lora  # noqa: E402
from finemem_jax.weights.hf import load_pretrained, save_adapters, save_pretrained  # noqa: E402


def test_adapters_agree_in_peft_and_merged_in_transformers(tmp_path):
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.3,
    )
    base = transformers.AutoModelForCausalLM.from_config(config).eval()
    base.save_pretrained(tmp_path / "base")
    settings = LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"))
    model, params = load_pretrained(tmp_path / "base", lora=settings)
    frozen, adapters = lora.split_adapters(params)
    adapters = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), adapters)
    params = lora.join_adapters(frozen, adapters)

    tokens = np.random.default_rng(0).integers(0, 97, (2, 9))
    positions = np.tile(np.arange(9), (2, 1))
    ours = np.asarray(jax.jit(model.apply)({"params": params}, tokens, positions, jnp.ones((2, 9), jnp.int32)))

    def logits(torch_model):
        with torch.no_grad():
            return torch_model(torch.tensor(tokens)).logits.numpy()

    before = logits(base)
    assert np.abs(before - ours).max() > 0.1  # the adapters do something
    save_adapters(tmp_path / "adapters", model, params, base_model=str(tmp_path / "base"))
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
    np.testing.assert_allclose(logits(adapted), ours, atol=1e-4)
    save_pretrained(tmp_path / "merged", model, params)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    np.testing.assert_allclose(logits(merged), ours, atol=1e-4)
