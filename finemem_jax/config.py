"""The schema: frozen dataclasses, and the only place where a default lives.

A config file (`configs/*.py`) is an ml_collections file that starts from `default()` and lists only its
differences; `--config.a.b=value` overrides single fields. `from_ml_collections` converts once, strictly, in
`main.py`: an unknown key, a wrong type or an illegal value is a `UserError` that names the knob.

`resolve(package, name)` is the registry: a plug-in is one file in its package's folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import pkgutil
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_collections


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints its one line and exits with code 2."""


# --------------------------------------------------------------------------------------------------------------
# The policy and the machine
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    rank: int = 0  # 0 = train all parameters; >= 1 = train adapters of this rank, base frozen
    alpha: float = 16.0  # adapter output is scaled by alpha / rank
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")  # projections that carry an adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    path: str = ""  # Hugging Face folder or hub name; "embedded:NAME" = a folder shipped in the package; "" = random
    family: str = "qwen3"  # a file in models/; ignored when path is given
    preset: str = "4b"  # a key of that family's PRESETS; ignored when path is given
    # Folder or hub name; "" = the one beside the model; "tiny" or "corpus" = a small one, built from the diary's
    # words or from the training episodes (`finemem sft`)
    tokenizer: str = ""
    layers_from: str = ""  # path "" and a tokenizer that is built: start from the layers of this folder, new embeddings
    dtype: str = "bfloat16"  # compute dtype of matmuls: float32 | bfloat16
    param_dtype: str = "float32"  # dtype parameters are stored in: float32 | bfloat16
    remat: str = "none"  # rematerialisation policy by name: none | full | dots
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; one axis may be -1 = all the rest."""

    data: int = -1
    fsdp: int = 1
    # Devices that share the tokens of one row, for rows beyond 32k tokens; not -1. Each attends with its own queries
    # to keys and values gathered from all; only training is split so
    sequence: int = 1
    tensor: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    slots: int = 64  # rows decoded at once
    cache_tokens: int = 8192  # longest prompt plus completion, tokens
    page_tokens: int = 64  # tokens per page of the cache; prompts that begin alike share whole pages
    pool_tokens: int = 0  # tokens the cache holds at once; 0 = slots * cache_tokens, or what the device's memory holds
    prefill_tokens: int = 1024  # prompt tokens per prefill call, padding included; a longer prompt has its own call
    decode_chunk: int = 32  # tokens decoded per device call
    weights: str = "compute"  # what decoding reads: compute (the model's compute dtype) | int8 (weight-only, rounded)
    warm_up: bool = False  # compile every shape before the first rollout instead of when it is first met
    tensor: int = 0  # local chips that share the model when it decodes; 0 = as many as divide its kv heads


# --------------------------------------------------------------------------------------------------------------
# The task: data, memory, prompt, retrieval, answerer
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiaryConfig:
    """Difficulty of the embedded task (`benchmarks/diary.py`)."""

    chunks: int = 4  # days per episode
    facts: int = 2  # new facts per day
    examples: int = 1  # labelled examples (`utterance => label`) per day
    changes: int = 1  # facts of earlier days that change, per day from the second on
    noise: int = 2  # lines of chit-chat per day
    chunk_questions: int = 3  # questions about each day
    changed_questions: int = 2  # final questions that need a changed fact
    fact_questions: int = 3  # final questions about facts that never changed
    label_questions: int = 2  # final questions answered by the nearest labelled example
    train_episodes: int = 4096  # distinct training episodes
    eval_episodes: int = 64  # held-out episodes; they share no utterance with training


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    name: str = "diary"  # a file in benchmarks/
    path: str = ""  # file or folder with the training episodes (benchmarks that read files)
    eval_path: str = ""  # the same for evaluation; "" = the benchmark's own held-out split of `path`
    sources: tuple[str, ...] = ()  # keep only these data sources; () = all
    limit: int = 0  # keep at most this many episodes of a split; 0 = all
    on_bad_row: str = "stop"  # a row that cannot be read: stop | skip = leave it out, the count is said
    chunk_tokens: int = 2048  # benchmarks that cut raw text: most tokens of a chunk
    tokenizer: str = ""  # benchmarks that cut raw text: what counts them, folder or hub name; "" = words and signs
    diary: DiaryConfig = field(default_factory=DiaryConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """Which items of memory the policy sees (and may therefore name in an operation)."""

    select: str = "recent"  # recent | relevant (BM25 to the chunk) | both (half and half)
    max_items: int = 50  # at most this many
    max_tokens: int = 2048  # and at most this many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    name: str = "flat"  # a file in memory/
    max_operations: int = 16  # operations applied per step; later ones are "over limit"
    max_items: int = 1024  # items held at once
    max_tokens: int = 131072  # tokens held at once
    max_item_tokens: int = 512  # tokens of one item
    overflow: str = "refuse"  # refuse: the write is "over limit"; evict_oldest: the oldest written items go
    view: ViewConfig = field(default_factory=ViewConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    # A file in prompts/: full = instructions for a pretrained model; short = a few sentences, for a small one;
    # compact = the text alone, for the tiny policy
    name: str = "full"
    max_prompt_tokens: int = 6144  # a longer prompt drops items of the view, oldest first
    max_completion_tokens: int = 2048
    thinking: bool = False  # Qwen3's thinking switch in the chat template
    codec: str = "qwen"  # how operations are written, a file in codecs/: qwen (<tool_call> JSON), lines, …


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig:
    name: str = "bm25"  # bm25 | dense (cosine of embeddings; an optional extra)
    model: str = ""  # dense: local folder of a model2vec or sentence-transformers encoder
    k: int = 5  # items retrieved per question
    k1: float = 1.5
    b: float = 0.75
    idf: str = "lucene"  # lucene = ln(1 + (N - n + .5)/(n + .5)) | okapi = the reference's, floor included
    select: str = "search"  # search = the k best | all = the whole memory, in the order of writing, whatever k is
    max_tokens: int = 30000  # items given to the answerer, tokens; the worst leave first (all: the oldest)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswererConfig:
    """A frozen reasoning agent. All but `name` is for those that use a model: endpoint and local."""

    name: str = "extractive"  # a file in answerers/
    model: str = ""  # endpoint: the served model's name; local: Hugging Face folder, hub name or "embedded:NAME"
    url: str = ""  # endpoint: base URL of an OpenAI-compatible server, ending in /v1
    key_variable: str = "OPENAI_API_KEY"  # endpoint: environment variable that holds the key; unset = no key is sent
    temperature: float = 0.1
    max_tokens: int = 512
    extra: str = ""  # endpoint: JSON object merged into every request, e.g. {"seed": 1}
    concurrency: int = 64  # endpoint: requests under way at once
    timeout_seconds: float = 120.0  # endpoint: for one attempt, from sending to the last byte
    retries: int = 5  # endpoint: attempts after a broken reply (500, reset, timeout, invalid JSON) before it is missing
    backoff_seconds: float = 1.0  # endpoint: wait after the first failure; doubles, at most 60 s, with jitter
    patience_seconds: float = 600.0  # endpoint: how long to wait for a server that is away or busy (429, 502-504)
    cache: str = ""  # sqlite file of answers, by model, prompt and settings; "" = answers.sqlite in the workdir
    price_prompt: float = 0.0  # money per million prompt tokens, for the cost count
    price_completion: float = 0.0  # the same for completion tokens
    context_tokens: int = 8192  # local: capacity for one prompt and its answer, tokens
    slots: int = 16  # local: answers decoded at once


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig(AnswererConfig):
    """The model that judges answers (metric llm_judge). The fields are an answerer's; an empty url or model is
    config.answerer's."""

    name: str = "none"  # none | endpoint | local
    temperature: float = 0.0
    max_tokens: int = 16
    sources: tuple[str, ...] = ("lme_train", "longmemeval")  # data sources, by their beginning, that it judges


# --------------------------------------------------------------------------------------------------------------
# The method: rewards, advantages, loss
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    beta: float = 0.5  # share of the final score given to the steps whose items were evidence, in [0, 1]
    unanchored: str = "uniform"  # share of questions that retrieved nothing: uniform over steps | drop
    update_credit: str = "last_write"  # last_write | shared (split over all steps that wrote the item)


def _plugin_weights() -> Mapping[str, float]:
    """Weight of every term in rewards/: Fine-Mem's where the paper has the term, 0 (off) elsewhere."""
    paper = {"format": 1.0, "chunk_qa": 0.5, "evidence": 1.0, "compression": 0.05}
    return {name: paper.get(name, 0.0) for name in plugins("finemem_jax.rewards")}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardsConfig:
    weights: Mapping[str, float] = field(default_factory=_plugin_weights)  # one per file in rewards/; 0 = off, uncosted
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    chunk_questions: int = 5  # questions asked about each chunk (CSR's K); episodes with fewer ask them all
    question_share: float = 0.2  # share of the final questions asked per training step, in (0, 1]; at least one


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageConfig:
    std: str = "sample"  # sample (ddof 1) | none (Dr.GRPO: centre only)
    eps: float = 1e-6
    min_std: float = 0.01  # floor under the deviation, so that a tiny spread is not blown up


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    clip_low: float = 0.2  # importance ratio clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2
    dual_clip: float = 0.0  # > 1: bound on the loss of negative advantages (Mem-α: 3.0); 0 = off
    kl_estimator: str = "k3"  # k1 | k2 | k3
    kl_coef: float = 0.001  # 0 = no reference policy at all
    aggregation: str = "token_mean"  # token_mean | sequence_mean | constant
    constant_length: int = 2048  # aggregation constant: tokens are divided by rows * this
    engine_ratio_cap: float = 0.0  # > 0: old log-probs are the trainer's; ratio trainer / engine, at most this, weighs
    entropy: bool = False  # log the policy's exact mean entropy, nats per token; costs another pass over the logits


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    lr: float = 1e-6
    schedule: str = "constant"  # constant | linear | cosine; decay ends at 0 on the last update
    warmup: float = 0.05  # share of all updates spent rising from 0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0  # global-norm clip; 0 = off
    bf16_momentum: bool = False  # first moment in bfloat16


# --------------------------------------------------------------------------------------------------------------
# The runs: train, sft, eval
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    steps: int = 200
    episodes: int = 32  # episodes (groups) per step
    group_size: int = 8  # G: rollouts per episode
    temperature: float = 1.0
    top_k: int = 0  # training refuses any other value: the loss knows tempered log-probs only
    top_p: float = 1.0  # likewise
    epochs: int = 1  # passes over a batch of rollouts
    mini_batches: int = 1  # optimizer updates per pass
    microbatch_rows: int = 8  # rows per forward and backward, of each process; the loss is exact for any value
    row_tokens: int = 0  # length of a packed row, tokens; 0 = chosen for the least padding
    logprob_chunk: int = 512  # positions of each row whose logits exist at once
    checkpoint_every: int = 25
    keep_checkpoints: int = 3  # the newest so many are kept,
    keep_best: int = 1  # and so many with the best mean held-out accuracy
    eval_every: int = 50  # 0 = only before and after
    log_rollouts: int = 1  # episodes per step whose rollouts are written to rollouts.jsonl


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Warm start: a curriculum, then imitation of a scripted, imperfect expert (`sft.py`)."""

    stages: tuple[str, ...] = ("expert",)  # in order: copy_random | copy_lines | copy_shuffled | expert
    steps: tuple[int, ...] = (200,)  # optimizer steps of each stage
    lr: tuple[float, ...] = (1e-5,)  # peak learning rate of each stage
    batch: int = 32  # sequences per step
    # Share of sequences whose non-structural tokens are permuted (not in copy_random); -1 = 0 with model.path, whose
    # tokenizer may spell calls with tokens that a permutation makes noise of, else 0.25
    permuted: float = -1.0
    copy_mix: float = -1.0  # expert: share of copying sequences mixed in, against forgetting; -1 = likewise
    update_mix: float = 0.0  # copy_shuffled, expert: share of exercises in looking up the item to update
    pool: int = 2048  # distinct episodes the expert is run on
    save_dtype: str = "float32"  # dtype of the written folder: float32 | bfloat16
    eval_every: int = 0  # steps between evaluations on held-out episodes, one before the first included; 0 = only after
    eval_examples: int = 128  # turns of the expert on held-out episodes whose nll every evaluation gives; 0 = none
    expert: ExpertConfig = field(default_factory=lambda: ExpertConfig())


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """How imperfect the scripted expert is. Probabilities in [0, 1]."""

    keep_useful: float = 0.6  # a fact or a labelled example is written
    keep_noise: float = 0.4  # a line of chit-chat is written
    update_changed: float = 0.4  # a changed fact is written as UPDATE of the old item instead of INSERT
    update_wrong: float = 0.0  # a changed fact not written so, or not in memory, is an UPDATE of any item
    skip: float = 0.05  # the whole step is a SKIP


SCRIPTED_BASELINES = ("no_memory", "store_all", "recent_k", "full_context", "rag", "expert", "oracle")
MODEL_BASELINES = ("untrained", "memagent", "mem1")  # write with a model; in `finemem evaluate` only


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    episodes: int = 64  # held-out episodes; 0 = all
    temperatures: tuple[float, ...] = (1.0, 0.0)  # one evaluation each; 0 = greedy
    baselines: tuple[str, ...] = ("no_memory", "store_all", "expert", "oracle")  # of the two lists above
    metrics: str = "strict"  # strict = env/scoring.py | reference = Mem-α's published scoring, defects included
    seed: int = 1234
    log_rollouts: int = 128  # held-out episodes whose rollouts are written to heldout/, for the report; 0 = none
    recent_k: int = 5  # recent_k: chunks kept, the answerer sees all of them
    rag_k: int = 2  # rag: chunks retrieved per question (Mem-α's baseline: 2)
    context_tokens: int = 30000  # full_context: the last tokens of the stream (Mem-α's baseline: 30,000)
    block: int = 64  # episodes between two saves of `finemem evaluate`
    policy_model: str = ""  # --policy=http://…/v1: the served model's name
    bootstrap_resamples: int = 2000  # of the 95 % intervals over instances


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """One alarm."""

    limit: float = 0.0  # the alarm's threshold; unit and side: see its line in GuardsConfig
    action: str = "warn"  # off | warn = a line and alarms.jsonl | stop = also save the state and exit with code 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardsConfig:
    """Alarms (`run/guards.py`), the watchdog of stalls (`run/watchdog.py`), and what a failing part of a run does."""

    patience: int = 5  # an alarm sounds after so many steps in a row beyond its limit, then after 2, 4, 8 times as many
    non_finite: GuardConfig = field(  # this many updates in a row were skipped for a loss or gradient of NaN or inf
        default_factory=lambda: GuardConfig(limit=8, action="stop")
    )
    reward_collapse: GuardConfig = field(  # share of (group, step) pairs with a gradient, at or below
        default_factory=lambda: GuardConfig(limit=0.0)
    )
    missing_rewards: GuardConfig = field(  # share of (group, step) pairs without a reward: no answers came, at or above
        default_factory=lambda: GuardConfig(limit=0.05)
    )
    missing_rewards_stop: GuardConfig = field(  # the same, where going on is of no use
        default_factory=lambda: GuardConfig(limit=0.5, action="stop")
    )
    reward_drop: GuardConfig = field(  # smoothed total reward, this much or more below its best so far
        default_factory=lambda: GuardConfig(limit=0.5)
    )
    format_collapse: GuardConfig = field(  # share of the operations written that are valid, at or below
        default_factory=lambda: GuardConfig(limit=0.1)
    )
    length_explosion: GuardConfig = field(  # share of turns cut off at prompt.max_completion_tokens, at or above
        default_factory=lambda: GuardConfig(limit=0.5)
    )
    kl: GuardConfig = field(  # KL to the reference, nats per token, at or above; measured when loss.kl_coef > 0
        default_factory=lambda: GuardConfig(limit=10.0)
    )
    drift: GuardConfig = field(  # KL of the sampling policy to the updated one, nats per token, at or above
        default_factory=lambda: GuardConfig(limit=1.0)
    )
    entropy_low: GuardConfig = field(  # mean -log p of the sampled tokens, nats, at or below
        default_factory=lambda: GuardConfig(limit=1e-3)
    )
    entropy_high: GuardConfig = field(  # the same, at or above
        default_factory=lambda: GuardConfig(limit=6.0)
    )
    stall: GuardConfig = field(  # seconds in which no step finished; stop ends the process where it stands
        default_factory=lambda: GuardConfig(limit=3600.0)
    )
    disk_full: str = "warn"  # a checkpoint or log line that cannot be written: warn = go on and try again | stop
    grace: float = 25.0  # seconds from SIGTERM to the end of the process, whatever is not saved by then


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """Where metrics go besides the JSON lines, which are always written. Their names: docs/metrics.md."""

    tensorboard: bool = True  # event files in WORKDIR/tensorboard
    wandb: bool = False  # Weights & Biases; needs the extra `wandb`
    wandb_project: str = "finemem"
    sample_every: int = 10  # steps between histograms and sample texts


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """A trace of `jax.profiler` and a table of the phases, in WORKDIR/profile (`run/profiling.py`)."""

    steps: int = 0  # training steps to trace; 0 = none
    start: int = 2  # the first of them; the steps before it compile


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    name: str = "finemem"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    answerer: AnswererConfig = field(default_factory=AnswererConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)


# --------------------------------------------------------------------------------------------------------------
# To and from ml_collections
# --------------------------------------------------------------------------------------------------------------


def default() -> ml_collections.ConfigDict:
    """The defaults as a mutable ml_collections.ConfigDict, to be edited by a config file."""
    return ml_collections.ConfigDict(to_dict(Config()), type_safe=True)


def to_dict(cfg: object) -> dict:
    """A config dataclass as nested plain dicts (tuples stay tuples), ready for JSON."""
    return {
        f.name: _plain(getattr(cfg, f.name))
        for f in dataclasses.fields(cfg)  # type: ignore[arg-type]
    }


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value


def from_ml_collections(tree: Mapping) -> Config:
    """The frozen config of an ml_collections tree (or of nested dicts). Raises UserError on anything unknown."""
    cfg = _build(Config, plain(tree), "config")
    validate(cfg)
    return cfg


def plain(tree: Mapping | ml_collections.ConfigDict) -> dict:
    """Nested plain dicts of an ml_collections tree."""
    if not isinstance(tree, Mapping | ml_collections.ConfigDict):
        raise UserError(f"a config must be a group of settings, got {str(tree)[:80]!r}")
    return tree.to_dict() if isinstance(tree, ml_collections.ConfigDict) else dict(tree)


def _build(cls: type, tree: Mapping, path: str) -> typing.Any:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key in tree:
        if key not in names:
            raise UserError(unknown(f"{path}.{key}", [f"{path}.{name}" for name in names], "config key"))
    return cls(**{key: _convert(hints[key], value, f"{path}.{key}") for key, value in tree.items()})


def _convert(hint: typing.Any, value: object, path: str) -> object:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{path} must be a group of settings, got {value!r}")
        return _build(hint, value, path)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise UserError(f"{path} must be a tuple of {inner.__name__}, got {value!r}")
        return tuple(_convert(inner, item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{path} must be a group of numbers, got {value!r}")
        return types.MappingProxyType({k: _convert(float, v, f"{path}.{k}") for k, v in value.items()})
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{path} must be of type {hint.__name__}, got {value!r}")
    return value


def dotted_names(tree: Mapping, prefix: str = "config") -> list[str]:
    """Every dotted name of a config tree, groups included, e.g. "config.loss" and "config.loss.kl_coef"."""
    names = []
    for key, value in tree.items():
        names.append(f"{prefix}.{key}")
        if isinstance(value, Mapping):
            names += dotted_names(value, f"{prefix}.{key}")
    return names


def unknown(given: str, known: list[str], what: str) -> str:
    """One line for an unknown name: the nearest known one, or the list when none is near."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
    return f"unknown {what} {given}: {hint}"


# --------------------------------------------------------------------------------------------------------------
# Legal values
# --------------------------------------------------------------------------------------------------------------

_CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "model.param_dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "full", "dots"),
    "engine.weights": ("compute", "int8"),
    "data.on_bad_row": ("stop", "skip"),
    "memory.overflow": ("refuse", "evict_oldest"),
    "memory.view.select": ("recent", "relevant", "both"),
    "retrieval.name": ("bm25", "dense"),
    "retrieval.idf": ("lucene", "okapi"),
    "retrieval.select": ("search", "all"),
    "judge.name": ("none", "endpoint", "local"),
    "rewards.evidence.unanchored": ("uniform", "drop"),
    "rewards.evidence.update_credit": ("last_write", "shared"),
    "advantage.std": ("sample", "none"),
    "loss.kl_estimator": ("k1", "k2", "k3"),
    "loss.aggregation": ("token_mean", "sequence_mean", "constant"),
    "eval.metrics": ("strict", "reference"),
    "sft.save_dtype": ("float32", "bfloat16"),
    "optimizer.schedule": ("constant", "linear", "cosine"),
    "guards.disk_full": ("warn", "stop"),
    **{
        f"guards.{guard.name}.action": ("off", "warn", "stop")
        for guard in dataclasses.fields(GuardsConfig)
        if guard.type == "GuardConfig"
    },
}

# name -> (least, most), both inclusive
_RANGES = {
    "seed": (0, 2**31 - 1),
    "model.lora.rank": (0, 4096),
    "engine.slots": (1, math.inf),
    "engine.cache_tokens": (2, math.inf),
    "engine.page_tokens": (1, math.inf),
    "engine.pool_tokens": (0, math.inf),
    "engine.prefill_tokens": (1, math.inf),
    "engine.decode_chunk": (1, math.inf),
    "engine.tensor": (0, math.inf),
    "data.limit": (0, math.inf),
    "data.chunk_tokens": (16, math.inf),
    "data.diary.chunks": (1, 64),
    "data.diary.facts": (1, 16),
    "data.diary.examples": (0, 16),
    "data.diary.changes": (0, 16),
    "data.diary.noise": (0, 32),
    "data.diary.train_episodes": (1, math.inf),
    "data.diary.eval_episodes": (1, math.inf),
    "memory.max_operations": (1, math.inf),
    "memory.max_items": (1, math.inf),
    "memory.max_tokens": (1, math.inf),
    "memory.max_item_tokens": (1, math.inf),
    "memory.view.max_items": (0, math.inf),
    "memory.view.max_tokens": (0, math.inf),
    "prompt.max_prompt_tokens": (1, math.inf),
    "prompt.max_completion_tokens": (1, math.inf),
    "retrieval.k": (1, math.inf),
    "retrieval.k1": (0, math.inf),
    "retrieval.b": (0, 1),
    "retrieval.max_tokens": (1, math.inf),
    "eval.recent_k": (1, math.inf),
    "eval.rag_k": (1, math.inf),
    "eval.context_tokens": (1, math.inf),
    "eval.block": (1, math.inf),
    "eval.bootstrap_resamples": (1, math.inf),
    "answerer.temperature": (0, math.inf),
    "answerer.max_tokens": (1, math.inf),
    "answerer.concurrency": (1, 4096),
    "answerer.timeout_seconds": (1e-3, math.inf),
    "answerer.retries": (0, math.inf),
    "answerer.backoff_seconds": (0, 60),
    "answerer.patience_seconds": (0, math.inf),
    "answerer.price_prompt": (0, math.inf),
    "answerer.price_completion": (0, math.inf),
    "answerer.context_tokens": (2, math.inf),
    "answerer.slots": (1, math.inf),
    "judge.temperature": (0, math.inf),
    "judge.max_tokens": (1, math.inf),
    "rewards.evidence.beta": (0, 1),
    "rewards.chunk_questions": (1, math.inf),
    "rewards.question_share": (1e-9, 1),
    "advantage.eps": (0, 1),
    "advantage.min_std": (0, math.inf),
    "loss.clip_low": (0, 1),
    "loss.clip_high": (0, math.inf),
    "loss.kl_coef": (0, math.inf),
    "loss.engine_ratio_cap": (0, math.inf),
    "optimizer.lr": (0, 10),
    "optimizer.warmup": (0, 1),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.max_grad_norm": (0, math.inf),
    "train.steps": (0, math.inf),
    "train.episodes": (1, math.inf),
    "train.group_size": (1, math.inf),
    "train.temperature": (1e-6, math.inf),
    "train.epochs": (1, math.inf),
    "train.mini_batches": (1, math.inf),
    "train.microbatch_rows": (1, math.inf),
    "train.row_tokens": (0, math.inf),
    "mesh.sequence": (1, math.inf),
    "train.logprob_chunk": (1, math.inf),
    "train.checkpoint_every": (1, math.inf),
    "train.keep_checkpoints": (1, math.inf),
    "train.keep_best": (0, math.inf),
    "train.eval_every": (0, math.inf),
    "train.log_rollouts": (0, math.inf),
    "eval.episodes": (0, math.inf),
    "eval.log_rollouts": (0, math.inf),
    "guards.patience": (1, math.inf),
    "guards.non_finite.limit": (1, math.inf),
    "guards.reward_collapse.limit": (0, 1),
    "guards.missing_rewards.limit": (1e-9, 1),
    "guards.missing_rewards_stop.limit": (1e-9, 1),
    "guards.reward_drop.limit": (0, math.inf),
    "guards.format_collapse.limit": (0, 1),
    "guards.length_explosion.limit": (0, 1),
    "guards.kl.limit": (0, math.inf),
    "guards.drift.limit": (0, math.inf),
    "guards.entropy_low.limit": (0, math.inf),
    "guards.entropy_high.limit": (0, math.inf),
    "guards.stall.limit": (1e-3, math.inf),
    "guards.grace": (0, math.inf),
    "logging.sample_every": (1, math.inf),
    "profile.steps": (0, math.inf),
    "profile.start": (0, math.inf),
    "sft.batch": (1, math.inf),
    "sft.permuted": (-1, 1),
    "sft.copy_mix": (-1, 1),
    "sft.update_mix": (0, 1),
    "sft.pool": (1, math.inf),
    "sft.eval_every": (0, math.inf),
    "sft.eval_examples": (0, math.inf),
}


def validate(cfg: Config) -> None:
    """Raises UserError on an illegal value or a contradiction, naming the fields, before anything is compiled."""
    for name, choices in _CHOICES.items():
        value = _lookup(cfg, name)
        if value not in choices:
            raise UserError(f"config.{name}={value!r}: allowed are {', '.join(choices)}")
    for name, (least, most) in _RANGES.items():
        value = _lookup(cfg, name)
        if not least <= value <= most:  # also refuses NaN
            raise UserError(f"config.{name}={value}: must be from {least} to {most}")
    for package, name in (
        ("models", cfg.model.family),
        ("benchmarks", cfg.data.name),
        ("memory", cfg.memory.name),
        ("codecs", cfg.prompt.codec),
        ("prompts", cfg.prompt.name),
        ("answerers", cfg.answerer.name),
        *(("rewards", term) for term in cfg.rewards.weights),
    ):
        if name not in plugins(f"finemem_jax.{package}"):
            raise UserError(unknown(name, plugins(f"finemem_jax.{package}"), f"name in {package}/:"))
    for name in cfg.eval.baselines:
        known = [*SCRIPTED_BASELINES, *MODEL_BASELINES]
        if name not in known:
            raise UserError(unknown(name, known, "baseline in config.eval.baselines:"))
    for term, weight in cfg.rewards.weights.items():
        if not math.isfinite(weight):
            raise UserError(f"config.rewards.weights.{term}={weight}: must be finite")
    if cfg.train.top_k or cfg.train.top_p != 1.0:
        raise UserError(
            f"config.train.top_k={cfg.train.top_k}, config.train.top_p={cfg.train.top_p}: training samples "
            "from the whole distribution (top_k=0, top_p=1.0); truncation is for evaluation only"
        )
    if cfg.retrieval.name == "dense" and not cfg.retrieval.model:
        raise UserError("config.retrieval.name=dense needs config.retrieval.model: the local folder of its encoder")
    if cfg.loss.dual_clip and cfg.loss.dual_clip <= 1:
        raise UserError(f"config.loss.dual_clip={cfg.loss.dual_clip}: must be above 1, or 0 to switch it off")
    groups = cfg.train.episodes
    if groups % cfg.train.mini_batches:
        raise UserError(
            f"config.train.episodes={groups} is not a multiple of config.train.mini_batches={cfg.train.mini_batches}"
        )
    need = cfg.prompt.max_prompt_tokens + cfg.prompt.max_completion_tokens
    if cfg.engine.cache_tokens < need:
        raise UserError(
            f"config.engine.cache_tokens={cfg.engine.cache_tokens} holds no prompt and completion: "
            f"prompt.max_prompt_tokens + prompt.max_completion_tokens = {need}"
        )
    if 0 < cfg.train.row_tokens < need:
        raise UserError(f"config.train.row_tokens={cfg.train.row_tokens} is shorter than one sequence ({need})")
    if cfg.model.layers_from and not cfg.model.path and cfg.model.tokenizer not in ("tiny", "corpus"):
        raise UserError(
            f"config.model.layers_from={cfg.model.layers_from!r} is for a tokenizer that is built: "
            f"config.model.tokenizer={cfg.model.tokenizer!r}, allowed are tiny, corpus"
        )
    if cfg.train.row_tokens % cfg.mesh.sequence:
        raise UserError(
            f"config.train.row_tokens={cfg.train.row_tokens} does not split over config.mesh.sequence="
            f"{cfg.mesh.sequence} devices: make it a multiple, or 0 to choose one"
        )
    if not len(cfg.sft.stages) == len(cfg.sft.steps) == len(cfg.sft.lr):
        raise UserError("config.sft.stages, config.sft.steps and config.sft.lr must have the same length")


def _lookup(cfg: object, name: str) -> typing.Any:
    for part in name.split("."):
        cfg = getattr(cfg, part)
    return cfg


# --------------------------------------------------------------------------------------------------------------
# Plug-ins by file
# --------------------------------------------------------------------------------------------------------------


def plugins(package: str) -> list[str]:
    """Names of the plug-in files in a package's folder, sorted."""
    folder = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))


def resolve(package: str, name: str) -> types.ModuleType:
    """The plug-in module `name` of `package` ("finemem_jax.rewards"). Raises UserError listing the files found."""
    found = plugins(package)
    if name not in found:
        raise UserError(unknown(name, found, f"name in {package.rpartition('.')[2]}/:"))
    return importlib.import_module(f"{package}.{name}")
