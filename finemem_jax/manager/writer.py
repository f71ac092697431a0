"""The model that writes: behind an OpenAI-compatible server, or in our own engine.

Its exported folder says what it was trained with (`finemem.json`) and has its tokenizer: prompts are rendered here, as
in training, and a server that reads anything else is refused (`chat/policy.py`).
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finemem_jax import exits
from finemem_jax.chat.connection import parse_address
from finemem_jax.chat.policy import PolicyServer, open_server_of
from finemem_jax.config import UserError, resolve
from finemem_jax.env import prompts
from finemem_jax.env.environment import Asked, Environment
from finemem_jax.env.settings import FILE, PolicySettings, read_settings
from finemem_jax.manager.settings import ManagerConfig, server_settings
from finemem_jax.rollouts.by_chat import completion_of, messages_of
from finemem_jax.types import AnswererDown, Completion, Episode, Operation, Turn

_LONGEST_LIST = 1 << 20  # bytes of the list of models that a server gives


class Writer(Protocol):
    """Whoever completes the turns of an environment."""

    def complete(self, env: Environment, turn: Turn, episode: Episode, asked: Asked) -> Completion:
        """What the model writes. Raises AnswererDown where its server gives nothing."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which model it is, not loaded yet. url "": in our engine."""

    folder: str
    settings: PolicySettings
    url: str = ""
    name: str = ""  # under which it is served


def find_source(model: str, cfg: ManagerConfig) -> Source:
    """The model named by a URL or a folder, with its settings. Raises UserError where it is not to be found, or was not
    trained for this."""
    if not isinstance(model, str) or not model:
        raise UserError("model is empty: the URL of a server (http://localhost:8000/v1), or an exported folder")
    url, name = "", ""
    if model.startswith(("http://", "https://")):
        _check_address(model)
        url, name = model, cfg.served_name or _only_model(model, cfg)
        folder = cfg.folder or (name if (Path(name) / FILE).is_file() else "")
        if not folder:
            raise UserError(
                f"{model} serves {name!r}, and no exported folder of that name is here: give the folder that it serves "
                "(config.folder, --folder), whose finemem.json and tokenizer its prompts are made with"
            )
    else:
        folder = model
        if cfg.folder and cfg.folder != model:
            raise UserError(
                f"config.folder={cfg.folder} beside the model {model}: a folder is for a model behind a URL"
            )
    if not Path(folder).is_dir():
        raise UserError(f"no folder {folder}: give an exported folder (finemem export), or the URL of a server")
    settings = read_settings(folder)
    if settings is None:
        raise UserError(f"{folder} has no {FILE}, which says how its memory is written: export the policy with finemem")
    if settings.method.sees_question:
        raise UserError(f"{folder} was trained to see the questions before it writes (method.sees_question)")
    if not hasattr(resolve("finemem_jax.methods", settings.method.name), "write_turn"):
        raise UserError(f"{folder}: its method {settings.method.name} reads no stream of text")
    return Source(folder, settings, url, name)


def load_environment(source: Source) -> Environment:
    """The environment of the model's training: its tokenizer, memory, prompt and retrieval."""
    from finemem_jax.env import tokenizer as tokenizers  # transformers: seconds

    tokenizer, settings = tokenizers.load(source.folder), source.settings
    retrieval = settings.retrieval
    if retrieval.name == "dense" and not retrieval.model:
        raise UserError(f"{source.folder} is retrieved by an encoder that is not named there: use bm25, or name it")
    count = tokenizers.token_counter(tokenizer)
    env = Environment(tokenizer, count, settings.memory, settings.prompt, retrieval, method=settings.method)
    calls = [Operation(spec.name, spec.example("It is so.")) for spec in env.specs]
    names_items = any(env.empty_memory().target(call) is not None for call in calls)
    budget = settings.memory.max_operations
    prompts.check(tokenizer, env.specs, settings.prompt, max_operations=budget, names_items=names_items)
    return env


def open_writer(source: Source, env: Environment, cfg: ManagerConfig, lock: AbstractContextManager) -> Writer:
    """lock: held by whoever uses the tokenizer, which no two threads may at once."""
    temperature = source.settings.decoding.temperature if cfg.temperature < 0 else cfg.temperature
    if not source.url:
        try:
            engine_writer = importlib.import_module("finemem_jax.rollouts.engine_writer")  # which loads jax
        except ModuleNotFoundError as error:
            raise UserError(
                f"the model {source.folder} in our engine {exits.missing(error.name or 'jax')}; or give a server's URL"
            ) from error
        return engine_writer.open_engine_writer(source.folder, env, temperature)
    settings = server_settings(cfg, source.url, source.name, temperature, env.prompt.max_completion_tokens)
    server = open_server_of(settings, env.tokenizer, env.specs, env.prompt, env.memory.max_operations)
    return _Served(server, prompts.find_layout(env.tokenizer, env.specs, env.prompt), lock)


@dataclass(frozen=True, slots=True)
class _Served(Writer):
    server: PolicyServer
    layout: prompts.Layout
    lock: AbstractContextManager

    def complete(self, env: Environment, turn: Turn, episode: Episode, asked: Asked) -> Completion:
        with self.lock:
            messages = messages_of(env, turn, episode, asked, self.layout)
            waiting = self.server.submit(turn.prompt_tokens, messages, turn.max_tokens)
        reply = waiting.result()
        if reply.text is None:
            raise AnswererDown(f"the model's server gave nothing for a turn ({reply.problem}); try again")
        with self.lock:
            return completion_of(env, turn, reply, self.server.form)


def _check_address(url: str) -> None:
    try:
        parse_address(url)
    except ValueError as error:
        shown = "" if set(url) & set("@?#") else f" {url}"  # what stands beside these may be a password or a key
        raise UserError(f"the model's URL{shown} {error}") from error


def _only_model(url: str, cfg: ManagerConfig) -> str:
    """The name of the one model that a server lists. Raises UserError where there are others, or no list."""
    hint = "give the name under which it serves the model (config.served_name, --name)"
    key = os.environ.get(cfg.key_variable, "").strip() if cfg.key_variable else ""
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Accept": "application/json"})
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=cfg.timeout_seconds) as response:
            listed = json.loads(response.read(_LONGEST_LIST))
        names = sorted({entry["id"] for entry in listed["data"] if isinstance(entry["id"], str)})
    except urllib.error.URLError as error:
        raise UserError(f"nobody answers at {url} ({getattr(error, 'reason', error)}): is the server there?") from error
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        raise UserError(f"{url} does not list its models ({type(error).__name__}): {hint}") from error
    if len(names) != 1:
        raise UserError(f"{url} serves {len(names)} models ({', '.join(names[:5])}): {hint}")
    return names[0]
