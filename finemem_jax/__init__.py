"""finemem_jax: GRPO training of LLM memory managers in JAX, after Fine-Mem (arXiv 2601.08435).

The public names are here, each loaded when it is first used: `from finemem_jax import BM25`. Those of the first group
need no jax. `__init__.pyi` says the same to editors and type checkers; docs/python.md shows them at work.
"""

import importlib

__version__ = "0.1.0"

HOST = {
    # what flows
    "Answer": "types",
    "Chunk": "types",
    "Episode": "types",
    "MemoryItem": "types",
    "Operation": "types",
    "Outcome": "types",
    "Question": "types",
    "Rollout": "types",
    # a trained manager in your own agent
    "Manager": "manager.verbs",
    "ManagerConfig": "manager.settings",
    "Mem0": "manager.mem0",
    # a memory in your own program
    "BM25": "env.retrieval",
    "Environment": "env.environment",
    "apply": "env.environment",
    "emit": "env.operations",
    "parse": "env.operations",
    # metrics and credit
    "centred": "env.credit",
    "evidence_rewards": "rewards.evidence",
    "group_advantages": "env.credit",
    "score": "env.scoring",
    # configs and plug-ins
    "Config": "config",
    "UserError": "exits",
    "load_config": "schema.config_files",
    "plugins": "schema.plugins",
    "resolve": "schema.plugins",
}
DEVICE = {
    "Engine": "decoding.engine",
    "load_answerer": "loading",
    "load_environment": "loading",
    "load_held_out": "loading",
    "load_policy": "loading",
    "load_pretrained": "weights.hf",
    "policy_loss": "rl.grpo",
    "save_pretrained": "weights.hf",
    "token_logprobs": "rl.logprobs",
}

__all__ = ["__version__", *sorted({**HOST, **DEVICE})]


def __getattr__(name: str) -> object:
    place = HOST.get(name) or DEVICE.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{place}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
