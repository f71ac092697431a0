"""From a config to what a run works with: tokenizer, model, parameters, environment, episodes."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from finemem_jax.answerers._model import open_endpoint
from finemem_jax.benchmarks import only_a_judge_can_score, source_of, with_reference_metrics, without_wrong
from finemem_jax.chat.asked_once import AskedOnce
from finemem_jax.chat.engine import EngineChat
from finemem_jax.chat.http import checked_extra
from finemem_jax.chat.judge import PROTOCOLS, ModelJudge, Panel
from finemem_jax.chat.policy import PolicyServer, open_server_of
from finemem_jax.config import AnswererConfig, Config, ModelConfig, PromptConfig, UserError, resolve, unknown
from finemem_jax.console import tell
from finemem_jax.decoding.engine import Engine
from finemem_jax.env import prompts
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.chunk_lengths import with_fitting_chunks
from finemem_jax.env.environment import LLM_JUDGE, Environment
from finemem_jax.env.episodes import drawn_evenly, left_out
from finemem_jax.env.scaffolding import scaffolding
from finemem_jax.env.settings import with_settings_of
from finemem_jax.hosts import agreement
from finemem_jax.nn.fast_weights import FastSetup, make_basis
from finemem_jax.nn.lora import check_targets
from finemem_jax.nn.sharding import init_params, make_mesh
from finemem_jax.run.journal import CHECKPOINTS, stored_checkpoints
from finemem_jax.run.workdir import CONFIG, stored_config
from finemem_jax.types import Answerer, Chat, Episode, Judge, Operation, Question
from finemem_jax.weights import hf
from finemem_jax.weights.vocabulary import vocabulary_settings, with_vocabulary

# config.model.tokenizer: build the tiny tokenizer from the diary's words, or from the training episodes' chunks; or
# from the diary's words and what the config's prompt and codec repeat
BUILD_TINY, BUILD_FROM_CORPUS, BUILD_FOR_METHOD = BUILT = ("tiny", "corpus", "method")
CORPUS_SUBWORDS = 2048  # so that the words of held-out text do not fall apart into bytes


@dataclass(frozen=True, slots=True)
class Policy:
    tokenizer: PreTrainedTokenizerBase
    model: nn.Module
    params: Any


def load_policy(cfg: Config, mesh: Mesh | None = None) -> Policy:
    """The policy a run starts from: the weights at `model.path`, or random ones of `model.family` and `preset`."""
    tokenizer = load_tokenizer(cfg)
    folder = cfg.model.path or cfg.model.layers_from
    if folder:
        model, params = hf.load_pretrained(
            tokenizers.resolve_path(folder),
            dtype=cfg.model.dtype,
            param_dtype=cfg.model.param_dtype,
            remat=cfg.model.remat,
            lora=cfg.model.lora,
            mesh=mesh,
            seed=cfg.seed,
        )
        if not cfg.model.path:
            model, params = with_vocabulary(model, params, tokenizers.load(folder), tokenizer, cfg.seed)
        hf.check_vocabulary(len(tokenizer), model.cfg.vocab_size, cfg.model.tokenizer or cfg.model.path)
        return Policy(tokenizer, model, params)
    family = resolve("finemem_jax.models", cfg.model.family)
    if cfg.model.preset not in family.PRESETS:
        raise UserError(
            unknown(cfg.model.preset, sorted(family.PRESETS), f"config.model.preset of {cfg.model.family}:")
        )
    settings = dataclasses.replace(
        family.PRESETS[cfg.model.preset],
        dtype=cfg.model.dtype,
        param_dtype=cfg.model.param_dtype,
        remat=cfg.model.remat,
        lora=cfg.model.lora,
    )
    if cfg.model.tokenizer in BUILT:
        settings = dataclasses.replace(settings, **vocabulary_settings(tokenizer))
    hf.check_vocabulary(len(tokenizer), settings.vocab_size, cfg.model.tokenizer)
    model = family.Model(settings)
    params = init_params(model, jax.random.key(cfg.seed), mesh)
    check_targets(cfg.model.lora, params)
    return Policy(tokenizer, model, params)


def load_fast(cfg: Config, policy: Policy) -> FastSetup | None:
    """What fast weights read, made of the parameters that a run starts from; None where the config has none.

    All processes must call this at the same point."""
    fast = cfg.method.fast
    return FastSetup(fast, make_basis(policy.params, fast, cfg.seed)) if fast.rank else None


@dataclass(frozen=True, slots=True)
class Given:
    """A policy as named on the command line, not loaded yet. identity changes whenever its parameters do."""

    cfg: Config  # with the model and prompt settings that belong to it
    tokenizer: PreTrainedTokenizerBase
    identity: str
    workdir: Path
    base: ModelConfig  # what it was before training, as far as that is known
    asked: PromptConfig  # the config's own: how long the prompts of others may be that do not read the policy's
    run: Path | None = None  # folder of the run whose newest checkpoint it is
    url: str = ""


def load_given(cfg: Config, given: str, workdir: Path) -> Given:
    """A run's folder, a Hugging Face folder or hub name, or the base URL of a server; "" = `cfg.model`."""
    asked = cfg.prompt
    if given.startswith(("http://", "https://")):
        if not cfg.eval.policy_model:
            raise UserError("config.eval.policy_model is empty: the name under which the server serves the policy")
        if cfg.model.path:
            cfg = with_settings_of(cfg, tokenizers.resolve_path(cfg.model.path))
        return Given(
            cfg, load_tokenizer(cfg), f"endpoint {cfg.eval.policy_model}", workdir, cfg.model, asked, url=given
        )
    folder = Path(given)
    if given and (folder / CHECKPOINTS).is_dir() and (folder / CONFIG).is_file():
        stored = stored_config(folder)
        own = ("prompt", "memory", "method")
        if any(getattr(stored, name) != getattr(cfg, name) for name in own):
            tell(f"note: {given} was trained with its own config.{', config.'.join(own)}, used here", file=sys.stderr)
        cfg = dataclasses.replace(
            cfg, model=stored.model, prompt=stored.prompt, memory=stored.memory, method=stored.method
        )
        step = stored_checkpoints(folder).latest()
        identity = f"{folder.resolve()} step {step} {_stamps(folder / CHECKPOINTS / str(step))}"
        return Given(cfg, load_tokenizer(cfg), identity, workdir, stored.model, asked, folder)
    base = cfg.model
    if given:
        cfg = with_settings_of(cfg, tokenizers.resolve_path(given))
        cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, path=given, tokenizer=""))
    path = tokenizers.resolve_path(cfg.model.path) if cfg.model.path else ""
    identity = f"{path} {_stamps(Path(path))}" if path and Path(path).is_dir() else f"{path} seed {cfg.seed}"
    return Given(cfg, load_tokenizer(cfg), identity, workdir, base, asked)


def _stamps(folder: Path) -> str:
    """Names, sizes and times of a folder's files: other parameters cannot have the same."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return " ".join(f"{p.relative_to(folder)}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files)


class OpenPolicies:
    """Policies ready to write. It keeps the engine that was opened last: two at once may not fit the device."""

    def __init__(self) -> None:
        self._identity: str | None = None
        self._engine: Engine | None = None
        self._servers: dict[tuple, PolicyServer] = {}

    def open(self, given: Given, temperature: float, seed: int | None = None) -> Engine | PolicyServer:
        """The engine with the policy's parameters, or its server.

        seed: of the server's own random numbers. It is a part of what is asked, so that the same conversation has
        another reply for every seed; the engine takes its keys with every request instead."""
        if given.url:
            if given.cfg.method.fast.rank:
                raise UserError(
                    f"config.method.name={given.cfg.method.name} writes weights of its own for every episode, which "
                    f"the server at {given.url} cannot: give --policy a folder"
                )
            key = (given.identity, temperature, seed, given.cfg.prompt, given.cfg.memory.name)  # it gets their tools
            if key not in self._servers:
                self._servers[key] = _policy_server(given, temperature, seed)
            return self._servers[key]
        if self._engine is None or self._identity != given.identity:
            self._engine = None  # its buffers go before the next ones come
            self._engine, self._identity = _policy_engine(given), given.identity
        return self._engine


def _policy_engine(given: Given) -> Engine:
    policy = load_policy(given.cfg, load_mesh(given.cfg))
    params, fast = policy.params, load_fast(given.cfg, policy)
    if given.run is not None:
        params = stored_checkpoints(given.run).restore_params(params)
    return Engine(policy.model, params, given.cfg.engine, fast)


def _policy_server(given: Given, temperature: float, seed: int | None) -> PolicyServer:
    """The transport's settings (concurrency, timeouts, key) are the answerer's. With `config.model.path` the server's
    tokenizer is known: it must read the very prompt that is rendered with it."""
    answerer = _kept_in(given.cfg.answerer, given.workdir)
    extra = answerer.extra if seed is None else json.dumps({**checked_extra(answerer.extra), "seed": seed})
    settings = dataclasses.replace(
        answerer,
        extra=extra,
        url=given.url,
        model=given.cfg.eval.policy_model,
        temperature=temperature,
        max_tokens=given.cfg.prompt.max_completion_tokens,
    )
    if not given.cfg.model.path:
        return PolicyServer(settings, given.tokenizer, "")
    specs = resolve("finemem_jax.memory", given.cfg.memory.name).SPECS
    server = open_server_of(settings, given.tokenizer, specs, given.cfg.prompt, given.cfg.memory.max_operations)
    if agreement.is_lead():
        tell(f"policy: {given.url} reads our prompts as {server.form}", file=sys.stderr)
    return server


def load_tokenizer(cfg: Config) -> PreTrainedTokenizerBase:
    """The tokenizer of the config. One is built only for a model that starts from random weights."""
    built = cfg.model.tokenizer in BUILT
    if cfg.model.path:
        return tokenizers.load(cfg.model.path if built else cfg.model.tokenizer or cfg.model.path)
    if cfg.model.tokenizer == BUILD_TINY:
        return tokenizers.build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences())
    if cfg.model.tokenizer == BUILD_FOR_METHOD:
        sentences = resolve("finemem_jax.benchmarks", "diary").sentences()
        return tokenizers.build_tiny(sentences, scaffold=scaffolding(cfg.memory, cfg.prompt, cfg.method))
    if cfg.model.tokenizer == BUILD_FROM_CORPUS:
        texts = (chunk.text for episode in load_training(cfg) for chunk in episode.chunks)
        return tokenizers.build_tiny(texts, subwords=CORPUS_SUBWORDS)
    if not cfg.model.tokenizer:
        raise UserError("config.model.tokenizer is needed when config.model.path is empty")
    return tokenizers.load(cfg.model.tokenizer)


def load_training(cfg: Config) -> Sequence[Episode]:
    """The training episodes, at least one."""
    return _load_split(cfg, "train")


def load_rewarded(cfg: Config) -> Sequence[Episode]:
    """The training episodes, whose questions will reward the policy: each of them can be scored.

    LongMemEval's rubrics and lists of what else is acceptable score 0 whatever is answered, unless a judge reads them;
    so do whole sentences. Without a judge they end the run, or are left out (`config.data.on_unjudged`)."""
    episodes = load_training(cfg)
    unscorable, asked = _for_a_judge(episodes, cfg)
    if not unscorable or cfg.judge.name != "none":
        return episodes
    count = (
        f"{unscorable} of {asked} training questions of {', '.join(cfg.judge.sources)} have golds that only a judge "
    )
    count += "can compare with an answer (rubrics, lists of what is acceptable, whole sentences)"
    if cfg.data.on_unjudged == "stop":
        raise UserError(
            f"{count}: set config.judge.name (endpoint, local), or leave them out with config.data.on_unjudged=skip"
        )
    kept = [episode for episode in map(partial(_without_judged, cfg=cfg), episodes) if episode.questions]
    if not kept:
        raise UserError(f"{count}, and no other question is left: set config.judge.name (endpoint, local)")
    if agreement.is_lead():
        gone = f"they are left out, and {len(episodes) - len(kept)} episodes that have no other"
        tell(f"{count}; {gone} (config.data.on_unjudged=skip)", file=sys.stderr)
    return tuple(kept)


def _for_a_judge(episodes: Sequence[Episode], cfg: Config) -> tuple[int, int]:
    """Of the questions of `config.judge.sources`, how many only a judge can score, and how many there are."""
    if not isinstance(episodes, tuple | list):  # made up on access, with golds that can be matched
        return 0, 0
    unscorable, asked = 0, 0
    for episode in episodes:
        if episode.source.startswith(cfg.judge.sources):
            questions = [*episode.questions, *(q for chunk in episode.chunks for q in chunk.questions)]
            unscorable += sum(map(only_a_judge_can_score, questions))
            asked += len(questions)
    return unscorable, asked


def _without_judged(episode: Episode, cfg: Config) -> Episode:
    """The episode without the questions that only a judge can score."""
    if not episode.source.startswith(cfg.judge.sources):
        return episode

    def scorable(questions: Sequence[Question]) -> tuple[Question, ...]:
        return tuple(question for question in questions if not only_a_judge_can_score(question))

    chunks = tuple(dataclasses.replace(chunk, questions=scorable(chunk.questions)) for chunk in episode.chunks)
    return dataclasses.replace(episode, chunks=chunks, questions=scorable(episode.questions))


def load_held_out(cfg: Config) -> list[Episode]:
    """The held-out episodes that evaluations use, `config.eval.episodes` of them, judged as `config.eval.metrics` says.

    `train` and `evaluate` both come here, so that their numbers are of the same questions."""
    there = _load_split(cfg, "eval")
    episodes = drawn_evenly(there, cfg.eval.episodes, cfg.eval.seed)
    if len(episodes) < len(there) and agreement.is_lead():
        chosen = f"{len(episodes)} of {len(there)} held-out episodes are judged"
        drawn = f"drawn over their data sources by config.eval.seed={cfg.eval.seed}"
        note = f"{chosen} (config.eval.episodes), {drawn}: {left_out(there, episodes)}"
        tell(note, file=sys.stderr)
    if cfg.eval.metrics == "reference":
        episodes = [with_reference_metrics(episode) for episode in episodes]
    judged = sorted({e.source for e in episodes if any(q.metric == LLM_JUDGE for q in e.questions)})
    if judged and cfg.judge.name == "none":
        raise UserError(
            f"{', '.join(judged)} can only be judged by a model (config.eval.metrics={cfg.eval.metrics}): set "
            "config.judge.name (endpoint, local), or keep other data sources with config.data.sources"
        )
    unscorable, asked = _for_a_judge(episodes, cfg)
    if unscorable and cfg.judge.name == "none" and agreement.is_lead():
        count = f"{unscorable} of {asked} held-out questions of {', '.join(cfg.judge.sources)} have golds that only "
        why = "a judge can compare with an answer: without one they count as wrong, whatever is answered"
        tell(f"{count}{why} (config.judge.name)", file=sys.stderr)
    return episodes


def fit_prompts(
    episodes: Sequence[Episode], env: Environment, cfg: Config, which: Iterable[int] | None = None
) -> Sequence[Episode]:
    """The episodes with no chunk that is too long for a prompt, as `config.data.on_long_chunk` says.

    which: the indices that will be read, for episodes that are made up on access; all others are looked at anyway."""
    which = None if isinstance(episodes, tuple | list) else which
    fitting, note = with_fitting_chunks(episodes, env, cfg.data.on_long_chunk, which)
    if note and agreement.is_lead():
        tell(note, file=sys.stderr)
    return fitting


def _load_split(cfg: Config, split: str) -> Sequence[Episode]:
    episodes = resolve("finemem_jax.benchmarks", cfg.data.name).load(cfg.data, split, cfg.seed)
    if not len(episodes):
        raise UserError(f"config.data: no episodes in the {split} split of {cfg.data.path or cfg.data.name}")
    if cfg.data.wrong_golds:
        episodes, said = without_wrong(episodes, cfg.data.wrong_golds)
        if agreement.is_lead():
            tell(said, file=sys.stderr)
    return episodes


def load_environment(cfg: Config, tokenizer: PreTrainedTokenizerBase, judge: Judge | None = None) -> Environment:
    """What every episode of a run shares. Raises UserError where method, model and prompt do not fit each other."""
    check_method(cfg)
    env = Environment(
        tokenizer,
        tokenizers.token_counter(tokenizer),
        cfg.memory,
        cfg.prompt,
        cfg.retrieval,
        judge,
        judged_sources(cfg) if judge is not None else (),
        cfg.method,
    )
    calls = [Operation(spec.name, spec.example("It is so.")) for spec in env.specs]
    prompts.check(
        tokenizer,
        env.specs,
        cfg.prompt,
        max_operations=cfg.memory.max_operations,
        names_items=any(env.empty_memory().target(call) is not None for call in calls),
        sees_question=cfg.method.sees_question,
    )
    return env


def check_method(cfg: Config) -> None:
    """Raises UserError where the method cannot be played with the config."""
    method = resolve("finemem_jax.methods", cfg.method.name)
    if cfg.method.fast.rank and not getattr(method, "WRITES_FAST", False):
        raise UserError(
            f"config.method.fast.rank={cfg.method.fast.rank}: config.method.name={cfg.method.name} writes no fast "
            "weights; parametric does, or set it to 0"
        )
    if hasattr(method, "check"):
        method.check(cfg)


def check_answerer(cfg: Config) -> None:
    """Raises UserError where the config names a server without saying where it is: before anything is loaded."""
    if cfg.answerer.name == "endpoint" and not (cfg.answerer.url and cfg.answerer.model):
        lacks = [name for name in ("url", "model") if not getattr(cfg.answerer, name)]
        raise UserError(
            f"config.answerer.name=endpoint, and config.answerer.{' and .'.join(lacks)} is empty: give the server "
            "that answers, as in --config.answerer.url=http://localhost:8000/v1, or another config.answerer.name "
            "(extractive needs none, and rewards a memory that a language model would not)"
        )


def load_answerer(cfg: Config, workdir: Path) -> Answerer:
    """The answerer of a run. What a model answered is kept in `workdir` unless the config names another file."""
    settings = _kept_in(cfg.answerer, workdir)
    local = _load_local(cfg, settings, "answerer") if settings.name == "local" else None
    return resolve("finemem_jax.answerers", settings.name).create(settings, local)


def load_judge(cfg: Config, workdir: Path) -> Judge | None:
    """The judge of a run, None where the config names none."""
    if cfg.judge.name == "none":
        return None
    settings = dataclasses.replace(_kept_in(cfg.judge, workdir), url=cfg.judge.url or cfg.answerer.url)
    models = [cfg.judge.model or cfg.answerer.model, *cfg.judge.also_models]
    prompts = [cfg.judge.prompt, *cfg.judge.also_prompts]
    judges = []
    for model in dict.fromkeys(models):
        own = dataclasses.replace(settings, model=model)
        chat = open_endpoint(own) if settings.name == "endpoint" else _load_local(cfg, own, "judge")
        for prompt in dict.fromkeys(prompts):
            judges.append(ModelJudge(chat, prompt, name=f"{model} {prompt}", max_tokens=settings.max_tokens))
    return judges[0] if len(judges) == 1 else Panel(judges)


def judge_line(cfg: Config) -> str:
    """Who scores what, for tables: model, protocol and settings of the judges, and how close each protocol is to its
    authors'."""
    if cfg.judge.name == "none":
        return f"scored without a judge, config.eval.metrics={cfg.eval.metrics}"
    model, settings = cfg.judge.model or cfg.answerer.model, cfg.judge
    more = ", ".join((*settings.also_models, *settings.also_prompts))
    extra = f", extra {settings.extra}" if settings.extra else ""
    return (
        f"judge: {model}, prompt {settings.prompt}, T {settings.temperature:g}, {settings.max_tokens} tokens{extra}; "
        f"{resolve(PROTOCOLS, settings.prompt).FIDELITY}" + (f"; beside it: {more}" if more else "")
    )


def other_judges(cfg: Config, sources: Iterable[str]) -> list[str]:
    """One line per data source that is judged, and by another protocol than its authors'."""
    if cfg.judge.name == "none":
        return []
    lines = []
    for source in sorted(set(sources)):
        own = source_of(source).judge
        if own and own != cfg.judge.prompt and source.startswith(judged_sources(cfg)):
            lines.append(
                f"note: {source} is judged by config.judge.prompt={cfg.judge.prompt}; published scores are by "
                f"{own}, and do not compare"
            )
    return lines


def judged_sources(cfg: Config) -> tuple[str, ...]:
    """The data sources, by their beginning, that a judge scores: the config's, and those that the benchmark's own file
    says have a judge."""
    own = getattr(resolve("finemem_jax.benchmarks", cfg.data.name), "SOURCES", {})
    return (*cfg.judge.sources, *(name for name, source in own.items() if source.judge))


def _kept_in(settings: AnswererConfig, workdir: Path) -> AnswererConfig:
    """Each process keeps a file of its own: databases on network file systems do not bear two writers."""
    number = f"-{jax.process_index()}" if jax.process_index() else ""
    return dataclasses.replace(settings, cache=settings.cache or str(workdir / f"answers{number}.sqlite"))


def _load_local(cfg: Config, settings: AnswererConfig, what: str) -> Chat:
    """The frozen model of `settings.model` in an engine of its own."""
    if not settings.model:
        raise UserError(f"config.{what}.model is empty: a Hugging Face folder, a hub name or embedded:NAME")
    tokenizer = tokenizers.load(settings.model)
    model, params = hf.load_pretrained(
        tokenizers.resolve_path(settings.model),
        dtype=cfg.model.dtype,
        param_dtype=cfg.model.dtype,  # frozen: nothing needs more than it is computed in
        # Every process has a copy of its own: they ask at different times.
        mesh=load_mesh(cfg) if jax.process_count() == 1 else make_mesh(devices=jax.local_devices()),
    )
    capacity = dataclasses.replace(
        cfg.engine, slots=settings.slots, cache_tokens=settings.context_tokens, pool_tokens=0
    )
    chat = EngineChat(Engine(model, params, capacity), tokenizer, settings, what)
    return AskedOnce(chat, chat.identity, settings.cache, settings.max_cache_bytes)


def load_mesh(cfg: Config) -> Mesh | None:
    """The mesh of the config over all devices of all processes; None where nothing is sharded: in a run of one process
    with one device, or with all axes 1."""
    axes = (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.sequence, cfg.mesh.tensor)
    split = math.prod(size for size in axes if size > 0)
    if jax.process_count() == 1 and split == 1 and (-1 not in axes or jax.device_count() == 1):
        return None
    return make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, sequence=cfg.mesh.sequence)
