"""What a policy needs to know beside its weights: `finemem.json` in its Hugging Face folder.

It holds the groups SETTINGS of the config that the policy was trained with: the memory it writes, the prompt and the
format of its calls, the loop of an episode, what it is retrieved by. Whoever serves or evaluates the folder renders its
prompts with them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from finemem_jax import config
from finemem_jax.config import Config, UserError
from finemem_jax.console import tell

FILE = "finemem.json"
SETTINGS = ("memory", "prompt", "method", "retrieval")
_OF_THE_POLICY = SETTINGS[:3]  # the rest is the evaluation's


def settings_file(cfg: Config) -> dict[str, dict]:
    """FILE and what it holds. A path of this machine is left out: it means nothing where the folder goes."""
    tree = {name: config.to_dict(getattr(cfg, name)) for name in SETTINGS}
    if os.sep in tree["retrieval"]["model"]:
        tree["retrieval"]["model"] = ""
    return {FILE: tree}


def with_settings_of(cfg: Config, folder: str) -> Config:
    """`cfg` with the memory, prompt and method that the policy in `folder` was trained with, as far as it says.

    Raises UserError where the file is damaged or of another version."""
    path = Path(folder) / FILE
    if not folder or not path.is_file():
        return cfg
    try:
        stored = json.loads(path.read_bytes())
        groups = {name: stored[name] for name in _OF_THE_POLICY}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): export the policy anew") from error
    trained = _converted(cfg, groups, path)
    own = {name: getattr(trained, name) for name in _OF_THE_POLICY}
    if own != {name: getattr(cfg, name) for name in _OF_THE_POLICY}:
        tell(f"note: {folder} was trained with its own config.{', config.'.join(own)}, used here", file=sys.stderr)
    # The cache is of this machine; it must hold a turn.
    need = trained.prompt.max_prompt_tokens + trained.prompt.max_completion_tokens
    engine = dataclasses.replace(cfg.engine, cache_tokens=max(cfg.engine.cache_tokens, need))
    return dataclasses.replace(cfg, **own, engine=engine)


def _converted(cfg: Config, groups: dict[str, object], path: Path) -> Config:
    roomy = dataclasses.replace(cfg.engine, cache_tokens=2**30)
    tree = config.to_dict(dataclasses.replace(Config(), engine=roomy))
    try:
        return config.from_ml_collections({**tree, **groups})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
