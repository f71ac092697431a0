"""The three families against transformers on torch: logits, log-probs, greedy text, export and import again."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity extra is not installed: pip install finemem_jax[parity]")
import transformers  # noqa: E402

from finemem_jax.nn.kv_cache import KVCache  # noqa: E402
from finemem_jax.rl.logprobs import token_logprobs  # noqa: E402
from finemem_jax.weights.hf import load_pretrained, save_pretrained  # noqa: E402

VOCAB, SEQ = 97, 11
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # far from uniform attention and from uniform logits
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "qwen3-tied": ("Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True}, "1GB"),
    "qwen3-untied-sharded": ("Qwen3Config", {"head_dim": 16, "tie_word_embeddings": False}, "40KB"),
    "qwen2-tied": ("Qwen2Config", {"tie_word_embeddings": True}, "1GB"),
    "qwen2-untied": ("Qwen2Config", {"tie_word_embeddings": False}, "1GB"),
    "llama3-tied": ("LlamaConfig", {"tie_word_embeddings": True, "rope_scaling": LLAMA3_ROPE}, "1GB"),
    "llama3-untied": ("LlamaConfig", {"tie_word_embeddings": False, "head_dim": 16}, "1GB"),
}


@dataclasses.dataclass
class Case:
    folder: object
    torch_model: object
    model: object
    params: dict
    apply: object


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request, tmp_path_factory):
    name, differences, shard = CASES[request.param]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SHAPE, **differences)
    torch_model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in torch_model.parameters():  # biases and norms are constant at initialisation
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param)
    torch_model.save_pretrained(folder, max_shard_size=shard)
    assert (folder / "model.safetensors.index.json").exists() == ("sharded" in request.param)
    model, params = load_pretrained(folder)
    return Case(folder, torch_model, model, params, jax.jit(model.apply))


def _inputs(side: str):
    """Three rows of different lengths, padded on one side."""
    tokens = np.random.default_rng(3).integers(0, VOCAB, (3, SEQ))
    mask = np.arange(SEQ)[None] < np.array([SEQ, 7, 1])[:, None]
    mask = mask if side == "right" else mask[:, ::-1]
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return tokens, mask, positions


def _torch_logits(model, tokens, mask, positions):
    with torch.no_grad():
        out = model(
            torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int)), position_ids=torch.tensor(positions)
        )
    return out.logits.numpy()


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_agree(case, side):
    tokens, mask, positions = _inputs(side)
    expected = _torch_logits(case.torch_model, tokens, mask, positions)[mask]
    logits = case.apply({"params": case.params}, *map(jnp.asarray, (tokens, positions, mask.astype(np.int32))))
    assert np.abs(expected).max() > 1  # the two sides are not trivially equal
    np.testing.assert_allclose(np.asarray(logits)[mask], expected, atol=1e-4)


def test_per_token_logprobs_agree(case):
    tokens, mask, positions = _inputs("right")
    expected = torch.log_softmax(torch.tensor(_torch_logits(case.torch_model, tokens, mask, positions)), -1).numpy()
    expected = np.take_along_axis(expected[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    ours = token_logprobs(case.model, case.params, *map(jnp.asarray, (tokens, positions, mask.astype(np.int32))))
    np.testing.assert_allclose(np.asarray(ours)[:, 1:][mask[:, 1:]], expected[mask[:, 1:]], atol=1e-4)


def test_greedy_continuation_of_32_tokens_is_identical(case):
    tokens, positions = _inputs("right")[0], np.tile(np.arange(SEQ), (3, 1))
    with torch.no_grad():
        expected = case.torch_model.generate(
            torch.tensor(tokens), attention_mask=torch.ones(tokens.shape), max_new_tokens=32, do_sample=False
        ).numpy()[:, SEQ:]

    def decode(params, tokens, positions):
        ones = jnp.ones_like(tokens)
        cache = KVCache.create(case.model.cfg, 3, SEQ + 32)
        logits, cache = case.model.apply({"params": params}, tokens, positions, ones, cache=cache, attend_to=0)

        def step(carry, position):
            token, cache = carry
            at = jnp.full((3, 1), position)
            logits, cache = case.model.apply({"params": params}, token, at, jnp.ones_like(at), cache=cache)
            return (jnp.argmax(logits, -1).astype(token.dtype), cache), token[:, 0]

        first = jnp.argmax(logits[:, -1:], -1).astype(tokens.dtype)
        return jax.lax.scan(step, (first, cache), SEQ + jnp.arange(32))[1].T

    ours = jax.jit(decode)(case.params, jnp.asarray(tokens), jnp.asarray(positions))
    np.testing.assert_array_equal(ours, expected)


def test_export_gives_transformers_the_same_logits_and_us_the_same_bits(case, tmp_path):
    save_pretrained(tmp_path / "out", case.model, case.params, max_shard_bytes=40_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens, mask, positions = _inputs("left")
    np.testing.assert_array_equal(
        _torch_logits(back, tokens, mask, positions), _torch_logits(case.torch_model, tokens, mask, positions)
    )
    model, params = load_pretrained(tmp_path / "out")
    assert model.cfg == case.model.cfg
    jax.tree.map(np.testing.assert_array_equal, params, case.params)


@pytest.mark.parametrize(("stored", "loaded"), [("bfloat16", "bfloat16"), ("float16", "float32")])
def test_half_precision_checkpoints_load(case, tmp_path, stored, loaded):
    copy.deepcopy(case.torch_model).to(getattr(torch, stored)).save_pretrained(tmp_path / stored)
    _, params = load_pretrained(tmp_path / stored, dtype=loaded)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {loaded}
    expected = jax.tree.map(lambda x: x.astype(stored).astype(loaded), case.params)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
