"""The public names for editors and type checkers; the module loads them when they are first used."""

from finemem_jax.config import Config
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.credit import centred, group_advantages
from finemem_jax.env.environment import Environment, apply
from finemem_jax.env.operations import emit, parse
from finemem_jax.env.retrieval import BM25
from finemem_jax.env.scoring import score
from finemem_jax.exits import UserError
from finemem_jax.loading import load_answerer, load_environment, load_held_out, load_policy
from finemem_jax.manager.mem0 import Mem0
from finemem_jax.manager.settings import ManagerConfig
from finemem_jax.manager.verbs import Manager
from finemem_jax.rewards.evidence import evidence_rewards
from finemem_jax.rl.grpo import policy_loss
from finemem_jax.rl.logprobs import token_logprobs
from finemem_jax.schema.config_files import load_config
from finemem_jax.schema.plugins import plugins, resolve
from finemem_jax.types import Answer, Chunk, Episode, MemoryItem, Operation, Outcome, Question, Rollout
from finemem_jax.weights.hf import load_pretrained, save_pretrained

__version__: str
HOST: dict[str, str]
DEVICE: dict[str, str]
__all__ = [
    "BM25",
    "DEVICE",
    "HOST",
    "Answer",
    "Chunk",
    "Config",
    "Engine",
    "Environment",
    "Episode",
    "Manager",
    "ManagerConfig",
    "Mem0",
    "MemoryItem",
    "Operation",
    "Outcome",
    "Question",
    "Rollout",
    "UserError",
    "__version__",
    "apply",
    "centred",
    "emit",
    "evidence_rewards",
    "group_advantages",
    "load_answerer",
    "load_config",
    "load_environment",
    "load_held_out",
    "load_policy",
    "load_pretrained",
    "parse",
    "plugins",
    "policy_loss",
    "resolve",
    "save_pretrained",
    "score",
    "token_logprobs",
]
