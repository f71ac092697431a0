"""Eight fake CPU devices, shape checks on device code, and one tiny model for all tests."""

import os
import signal
from pathlib import Path

from tests.compiling import quick_compilation

# What is kept between runs of the package is kept between test runs, and never in the home of who runs them.
os.environ.setdefault("FINEMEM_CACHE", str(Path(__file__).parent.parent / ".cache" / "finemem-tests"))
# Before the first import of jax, which reads them once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", *quick_compilation()]
)

# A shell that starts the suite in the background has it ignore Ctrl-C, and what is started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

# No limits of time: on a shared machine an example may wait for the processor.
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")

# Compiled functions are kept between test runs.
CACHE = Path(__file__).parent.parent / ".cache" / "jax-tests"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# The shapes written in the signatures of device functions are checked on every call.
_DEVICE = ("nn", "models", "weights", "rl", "decoding")
install_import_hook([f"finemem_jax.{package}" for package in _DEVICE], "beartype.beartype")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: item.path.parent.name != "e2e")


@pytest.fixture(scope="session")
def model():
    """The tiny preset: width 64, 3 layers, 2 kv heads, vocabulary 512, float32."""
    from finemem_jax.models import qwen3  # after the hook

    return qwen3.Model(qwen3.PRESETS["tiny"])


@pytest.fixture(scope="session")
def params(model):
    """Random parameters of the tiny model, large enough for its distributions to be far from uniform."""
    from finemem_jax.nn.sharding import init_params

    return jax.tree.map(lambda p: p * 2.0 if p.ndim > 1 else p, init_params(model, jax.random.key(0)))


@pytest.fixture(scope="session")
def real_data():
    """The folder of real raw data: $FINEMEM_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("FINEMEM_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no raw data at {folder} (set FINEMEM_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The tiny tokenizer, built from the diary's sentences."""
    from finemem_jax.config import resolve
    from finemem_jax.env.tokenizer import build_tiny

    return build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences())


@pytest.fixture(scope="session")
def env(tiny_tokenizer):
    """An environment around the tiny tokenizer, with the compact prompt."""
    from finemem_jax.config import MemoryConfig, PromptConfig, RetrievalConfig
    from finemem_jax.env.environment import Environment
    from finemem_jax.env.tokenizer import token_counter

    count = token_counter(tiny_tokenizer)
    return Environment(tiny_tokenizer, count, MemoryConfig(), PromptConfig(name="compact"), RetrievalConfig())
