"""finemem_jax: GRPO training of LLM memory managers in JAX, after Fine-Mem (arXiv 2601.08435)."""

__version__ = "0.1.0"
