import pytest

from finemem_jax.config import MemoryConfig, PromptConfig, RetrievalConfig, resolve
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.environment import Environment


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return tokenizers.build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences())


@pytest.fixture(scope="session")
def env(tiny_tokenizer):
    """An environment around the tiny tokenizer, with the compact prompt."""
    count = tokenizers.token_counter(tiny_tokenizer)
    return Environment(tiny_tokenizer, count, MemoryConfig(), PromptConfig(name="compact"), RetrievalConfig())
