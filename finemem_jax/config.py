"""The schema: frozen dataclasses, and the only place where a default lives, with the legal values beside it.

A config file (`configs/*.py`) is an ml_collections file that starts from `default()` and lists only its
differences; `--config.a.b=value` overrides single fields. `from_ml_collections` converts once, strictly, in
`main.py`: an unknown key, a wrong type or an illegal value is a `UserError` that names the knob.

What a field may hold is a part of its type (`schema/legal.py`); `validate` adds what fields say about each other.
`resolve(package, name)` is the registry: a plug-in is one file in its package's folder.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import ml_collections

from finemem_jax.exits import UserError
from finemem_jax.schema.convert import build, dotted_names, plain, to_dict
from finemem_jax.schema.legal import (
    Amount,
    Count,
    Narrowed,
    Natural,
    Place,
    Plugin,
    Range,
    Seed,
    Share,
    Text,
    check,
)
from finemem_jax.schema.own_settings import OwnSettings
from finemem_jax.schema.plugins import plugins, resolve, unknown

__all__ = ["UserError", "dotted_names", "plain", "plugins", "resolve", "to_dict", "unknown"]

# --------------------------------------------------------------------------------------------------------------
# The policy and the machine
# --------------------------------------------------------------------------------------------------------------


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    # 0 = train all parameters; >= 1 = train adapters of this rank, base frozen
    rank: Annotated[int, Range(0, 4096)] = 0
    alpha: Annotated[float, Range(0, but=(0,))] = 16.0  # adapter output is scaled by alpha / rank
    targets: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")  # projections that carry an adapter
    # Roles of turns that have adapters of their own, every role that the method has; () = one adapter for all
    roles: tuple[Literal["write", "answer", "search", "extract"], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    path: Place = ""  # Hugging Face folder or hub name; "embedded:NAME" = a folder shipped in the package; "" = random
    family: Annotated[str, Plugin("models")] = "qwen3"  # ignored when path is given
    preset: Text = "4b"  # a key of that family's PRESETS; ignored when path is given
    # Folder or hub name; "" = the one beside the model; "tiny" or "corpus" = a small one, built from the diary's
    # words or from the training episodes (`finemem sft`); "method" = tiny, and what this config's prompt and codec say
    # again and again is one token each
    tokenizer: Place = ""
    # path "" and a tokenizer that is built: start from the layers of this folder, new embeddings
    layers_from: Place = ""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # compute dtype of matmuls
    param_dtype: Literal["float32", "bfloat16"] = "float32"  # dtype parameters are stored in
    remat: Literal["none", "full", "dots"] = "none"  # rematerialisation policy by name
    lora: LoraConfig = field(default_factory=LoraConfig)


Devices = Annotated[int, Range(1, also=(-1,))]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; one axis may be -1 = all the rest."""

    data: Devices = -1  # replicas of the parameters; rows are split over them
    fsdp: Devices = 1  # devices that share every parameter; rows are split over them, too
    # Devices that share the tokens of one row, for rows beyond 32k tokens; not -1. Each attends with its own queries
    # to keys and values gathered from all; only training is split so
    sequence: Count = 1
    tensor: Devices = 1  # devices that share heads, mlp and vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    slots: Count = 64  # rows decoded at once
    cache_tokens: Annotated[int, Range(2)] = 8192  # longest prompt plus completion, tokens
    page_tokens: Count = 64  # tokens per page of the cache; prompts that begin alike share whole pages
    # Tokens the cache holds at once; 0 = slots * cache_tokens, or what the device's memory holds
    pool_tokens: Natural = 0
    prefill_tokens: Count = 1024  # prompt tokens per prefill call, padding included; a longer prompt has its own call
    decode_chunk: Count = 32  # tokens decoded per device call
    # What decoding reads: compute (the model's compute dtype) | int8 (weight-only, rounded)
    weights: Literal["compute", "int8"] = "compute"
    warm_up: bool = False  # compile every shape before the first rollout instead of when it is first met
    tensor: Natural = 0  # local chips that share the model when it decodes; 0 = as many as divide its kv heads


# --------------------------------------------------------------------------------------------------------------
# The task: data, memory, prompt, retrieval, answerer
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiaryConfig:
    """Difficulty of the embedded task (`benchmarks/diary.py`)."""

    chunks: Annotated[int, Range(1, 64)] = 4  # days per episode
    facts: Annotated[int, Range(1, 16)] = 2  # new facts per day
    examples: Annotated[int, Range(0, 16)] = 1  # labelled examples (`utterance => label`) per day
    changes: Annotated[int, Range(0, 16)] = 1  # facts of earlier days that change, per day from the second on
    noise: Annotated[int, Range(0, 32)] = 2  # lines of chit-chat per day
    # new facts per day that no chunk question asks for, and a final question may: chunk_qa does not see them
    silent: Annotated[int, Range(0, 16)] = 0
    # new facts per day that a chunk question asks for and no final question does: chunk_qa pays for keeping them
    passing: Annotated[int, Range(0, 16)] = 0
    # facts of earlier days that are said again, per day from the second on: near-duplicates, retrieved together
    repeats: Annotated[int, Range(0, 16)] = 0
    forgets: Annotated[int, Range(0, 64)] = 0  # facts per episode that a later day asks to forget
    # people per episode of whom an attribute may be told: items that differ in the person are retrieved together
    namesakes: Annotated[int, Range(1, 4)] = 1
    chunk_questions: Annotated[int, Range(0, 64)] = 3  # questions about each day
    changed_questions: Annotated[int, Range(0, 64)] = 2  # final questions that need a changed fact
    fact_questions: Annotated[int, Range(0, 64)] = 3  # final questions about facts that never changed
    label_questions: Annotated[int, Range(0, 64)] = 2  # final questions answered by the nearest labelled example
    silent_questions: Annotated[int, Range(0, 64)] = 0  # final questions about the silent facts
    forgotten_questions: Annotated[int, Range(0, 64)] = 0  # final questions whose answer must not be what was forgotten
    train_episodes: Count = 4096  # distinct training episodes
    eval_episodes: Count = 64  # held-out episodes; they share no utterance with training


Layout = Literal["dialogue", "lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsConfig:
    """A conversation turn by turn (`benchmarks/locomo_turns.py`)."""

    read: Natural = 1  # turns that the policy reads in an episode, a chunk each; 0 = it answers from what is given
    # turns before these whose entries memory begins with; -1 = all; 0 = none: the memory is all its own
    given: Annotated[int, Range(-1)] = 50
    # what a model extracted of the turns, JSON lines {"conversation", "turn", "facts"}; "" = what was said
    facts: Place = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    name: Annotated[str, Plugin("benchmarks")] = "diary"  # what is to be remembered
    path: Place = ""  # file or folder with the training episodes (benchmarks that read files)
    eval_path: Place = ""  # the same for evaluation; "" = the benchmark's own held-out split of `path`
    sources: tuple[Text, ...] = ()  # keep only these data sources; () = all
    limit: Natural = 0  # keep at most this many episodes of a split; 0 = all
    # a row that cannot be read: stop | skip = leave it out, the count is said
    on_bad_row: Literal["stop", "skip"] = "stop"
    # a chunk whose prompt is longer than prompt.max_prompt_tokens: stop | split = into several | skip = its episode
    on_long_chunk: Literal["stop", "split", "skip"] = "stop"
    # LoCoMo's adversarial questions and LongMemEval's `_abs` ones are asked, too: right is to say that it is not known.
    # Their kind is "abstention". Off, as their scores are not those that others report
    abstention: bool = False
    # File with the ids of questions whose published answer is known to be wrong, one a line: they are left out
    wrong_golds: Place = ""
    # training questions of judge.sources that only a judge can score, without one: stop | skip = leave them out
    on_unjudged: Literal["stop", "skip"] = "stop"
    # Most tokens of a chunk: benchmarks that cut raw text cut it so, and the policy's folder says so
    chunk_tokens: Annotated[int, Range(16)] = 2048
    tokenizer: Place = ""  # benchmarks that cut raw text: what counts them, folder or hub name; "" = words and signs
    # How the episodes write a conversation: dialogue = a session under its date, a <Speaker> before each turn | lines =
    # a dated line for each turn. With chunk_tokens it goes with the policy, which is given conversations so later
    layout: Layout = "dialogue"
    diary: DiaryConfig = field(default_factory=DiaryConfig)
    turns: TurnsConfig = field(default_factory=TurnsConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """Which items of memory the policy sees (and may therefore name in an operation)."""

    # recent | relevant (BM25 to the chunk) | both (half and half)
    select: Literal["recent", "relevant", "both"] = "recent"
    max_items: Natural = 50  # at most this many
    max_tokens: Natural = 2048  # and at most this many tokens
    # > 0: at most this many of every kind of item, chosen by themselves, in the place of max_items of all
    per_kind: Natural = 0
    # Kinds of items that are always seen, beside these limits ("text" of overwrite and "core" of layered always are)
    pinned: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    name: Annotated[str, Plugin("memory")] = "flat"  # how it is kept
    max_operations: Count = 16  # operations applied per step; later ones are "over limit"
    # items held at once; layered: this and the limits below hold for each of its lists
    max_items: Count = 1024
    max_tokens: Count = 131072  # tokens held at once; overwrite: of its text, which is cut there
    max_item_tokens: Count = 512  # tokens of one item; overwrite: no limit
    # refuse: the write is "over limit"; evict_oldest: the oldest written items go
    overflow: Literal["refuse", "evict_oldest"] = "refuse"
    view: ViewConfig = field(default_factory=ViewConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    # full = instructions for a pretrained model; short = a few sentences, for a small one;
    # compact = the text alone, for the tiny policy; memagent, mem1, persona = for one text that is rewritten;
    # memalpha = for a memory of several parts; memory_r1 = for entries of a conversation, where answers select first
    name: Annotated[str, Plugin("prompts")] = "full"
    max_prompt_tokens: Count = 6144  # a longer prompt drops items of the view, oldest first
    max_completion_tokens: Count = 2048  # a longer turn is cut off
    thinking: bool = False  # Qwen3's thinking switch in the chat template
    # How operations are written: qwen (<tool_call> JSON), lines, memory_list (Memory-R1), …; raw, think = one text that
    # is rewritten
    codec: Annotated[str, Plugin("codecs")] = "qwen"


@dataclass(frozen=True, slots=True, kw_only=True)
class FastConfig:
    """Memory in fast weights (TMEM): what a row may add to the kernels of the model's last layers, and how it is
    written. The defaults are the paper's."""

    rank: Annotated[int, Range(0, 4096)] = 0  # of the update; the paper's is 6; 0 = no fast weights
    layers: Count = 4  # the last so many carry one, on the three projections of their MLP
    scale: Amount = 1.0  # of what is added
    # What the update reads of a layer's input. svd = the kernel's principal directions | random = any, as an ablation
    basis: Literal["svd", "random"] = "svd"
    lr: Amount = 5e-4  # of the gradient steps of a write, on the mean over the batch's tokens
    epochs: Count = 5  # passes of a write over what it learns
    batch: Count = 16  # texts per gradient step
    max_texts: Count = 32  # texts that one write learns, at most; the others are not learned
    text_tokens: Annotated[int, Range(2)] = 256  # of one such text, at most; a longer pair is not learned
    rows: Count = 16  # writes per device call, of different episodes, at most
    context_tokens: Count = 4096  # of chunks that are read before a write; then they are forgotten
    # What is learned of them. pairs = questions and replies that the policy writes (the paper's) | summary = a text
    # that it writes | text = the chunks themselves, without a turn
    supervision: Literal["pairs", "summary", "text"] = "pairs"
    codec: Annotated[str, Plugin("codecs")] = "lines"  # how pairs are written
    # What is learned of a pair. question = the reply, in the prompt in which the question will be asked | statement =
    # question and reply as one text | turned = the reply first
    forms: tuple[Literal["question", "statement", "turned"], ...] = ("question",)
    learns: Literal["answer", "all"] = "answer"  # form question: the reply's tokens, or the prompt's too
    # questions about what was read, asked of the weights alone before and after every write, for the records
    probes: Natural = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """The loop of an episode, and who answers its questions."""

    name: Annotated[str, Plugin("methods")] = "stream"  # a file in methods/
    # answerer = the frozen one of config.answerer | policy = the policy, in a turn of its own for every final question
    answers: Literal["answerer", "policy"] = "answerer"
    answer_tokens: Count = 64  # most tokens of such an answer
    turns: Count = 6  # search: most turns of an episode, the answer's included
    # Writing turns see what will be asked at the end (MemAgent): compare with other methods only where it is said
    sees_question: bool = False
    fast: FastConfig = field(default_factory=FastConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig:
    # bm25 | dense (cosine of embeddings; an optional extra) | hybrid (both, by reciprocal rank fusion)
    name: Literal["bm25", "dense", "hybrid"] = "bm25"
    model: Place = ""  # dense, hybrid: local folder of a model2vec or sentence-transformers encoder
    k: Count = 5  # items retrieved per question
    k1: Amount = 1.5  # BM25: how soon more of a word stops counting
    b: Share = 0.75  # BM25: how much long items are held back
    # lucene = ln(1 + (N - n + .5)/(n + .5)) | okapi = the reference's, floor included
    idf: Literal["lucene", "okapi"] = "lucene"
    # search = the k best | all = the whole memory, in the order of writing, whatever k is
    select: Literal["search", "all"] = "search"
    per_kind: Natural = 0  # search: > 0: so many of every kind of item, searched by itself, in the place of k of all
    # per_kind: kind = the memory's own kinds | speaker = who an item says it is of ("[8 May 2023] Anna: …")
    split_by: Literal["kind", "speaker"] = "kind"
    pinned: tuple[Text, ...] = ()  # kinds of items that are always given, before what is found
    max_tokens: Count = 30000  # items given to the answerer, tokens; the worst leave first (all: the oldest)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswererConfig:
    """A frozen reasoning agent. All but `name` is for those that use a model: endpoint and local."""

    name: Annotated[str, Plugin("answerers")] = "extractive"  # who answers from what was found in memory
    model: Text = ""  # endpoint: the served model's name; local: Hugging Face folder, hub name or "embedded:NAME"
    # A file in prompts/ whose answering turn it is asked with, for one that was trained on it; "" = our own words
    prompt: Annotated[str, Plugin("prompts", also=("",))] = ""
    url: Text = ""  # endpoint: base URL of an OpenAI-compatible server, ending in /v1
    key_variable: Text = "OPENAI_API_KEY"  # endpoint: environment variable that holds the key; unset = no key is sent
    temperature: Amount = 0.1  # of its sampling; 0 = greedy
    max_tokens: Count = 512  # of one answer
    extra: Text = ""  # endpoint: JSON object merged into every request, e.g. {"seed": 1}
    concurrency: Annotated[int, Range(1, 4096)] = 64  # endpoint: requests under way at once
    timeout_seconds: Annotated[float, Range(0.001)] = 120.0  # endpoint: for one attempt, from sending to the last byte
    # endpoint: attempts after a broken reply (500, reset, timeout, invalid JSON) before it is missing
    retries: Natural = 5
    # endpoint: wait after the first failure; doubles, at most 60 s, with jitter
    backoff_seconds: Annotated[float, Range(0, 60)] = 1.0
    patience_seconds: Amount = 600.0  # endpoint: how long to wait for a server that is away or busy (429, 502-504)
    max_reply_bytes: Annotated[int, Range(1024)] = 1 << 20  # endpoint: a longer response is a broken reply
    # endpoint, local: size of the cache's file; beyond it the oldest answers make room
    max_cache_bytes: Annotated[int, Range(1 << 20)] = 4 << 30
    cache: Place = ""  # sqlite file of answers, by model, prompt and settings; "" = answers.sqlite in the workdir
    price_prompt: Amount = 0.0  # money per million prompt tokens, for the cost count
    price_completion: Amount = 0.0  # the same for completion tokens
    context_tokens: Annotated[int, Range(2)] = 8192  # local: capacity for one prompt and its answer, tokens
    slots: Count = 16  # local: answers decoded at once


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig(AnswererConfig):
    """The model that judges answers (metric llm_judge). The fields are an answerer's; an empty url or model is
    config.answerer's."""

    name: Literal["none", "endpoint", "local"] = "none"  # none | endpoint | local
    temperature: Amount = 0.0  # of its sampling; 0 = greedy
    max_tokens: Count = 16  # of one judgement; at least what its protocol needs
    # How it judges: a file in judges/. ours = yes or no, for a judge of any size | those of the benchmarks' authors
    prompt: Annotated[str, Plugin("judges")] = "ours"
    # Further judges, whose agreement with the first is reported: the same model by other protocols, and
    also_prompts: tuple[Annotated[str, Plugin("judges")], ...] = ()
    also_models: tuple[Text, ...] = ()  # other models of the same server (or folders), by each of the protocols
    sources: tuple[Text, ...] = ("lme_train", "longmemeval")  # data sources, by their beginning, that it judges


# --------------------------------------------------------------------------------------------------------------
# The method: rewards, advantages, loss
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    beta: Share = 0.5  # share of the final score given to the steps whose items were evidence, in [0, 1]
    # paper = the steps' shares sum to the final score, so each shrinks as 1/T beside format and compression |
    # per_step = times T, so that they sum to T of it: answers weigh the same in episodes of any length
    scale: Literal["paper", "per_step"] = "paper"
    # Who is paid for an answer. retrieved = all items it was given, evenly (the paper) | cited = those the answerer
    # says it used; none said: all | leave_one_out = those without which it is wrong | shapley = by their share in it.
    # The last two ask again with items left out
    attribution: Literal["retrieved", "cited", "leave_one_out", "shapley"] = "retrieved"
    permutations: Count = 8  # shapley: orders drawn where more than 4 items were retrieved; up to 4 all are counted
    # Share of questions that retrieved nothing: uniform over steps | drop
    unanchored: Literal["uniform", "drop"] = "uniform"
    # last_write | shared (split over all steps that wrote the item)
    update_credit: Literal["last_write", "shared"] = "last_write"


def _plugin_weights() -> Mapping[str, float]:
    """Weight of every term in rewards/: Fine-Mem's where the paper has the term, 0 (off) elsewhere."""
    paper = {"format": 1.0, "chunk_qa": 0.5, "evidence": 1.0, "compression": 0.05}
    return {name: paper.get(name, 0.0) for name in plugins("finemem_jax.rewards")}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardsConfig:
    """What a step earns: the terms, files of rewards/, and their weights."""

    # Of every term; 0 = off, uncosted
    weights: Mapping[Annotated[str, Plugin("rewards")], Annotated[float, Range(-math.inf)]] = field(
        default_factory=_plugin_weights
    )
    # Of terms that have settings of their own, e.g. settings.mine.floor=0.2
    settings: Annotated[Mapping[str, Mapping[str, Any]], OwnSettings("rewards")] = field(
        default_factory=lambda: types.MappingProxyType({})
    )
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    chunk_questions: Count = 5  # questions asked about each chunk (CSR's K); episodes with fewer ask them all
    # Share of the final questions asked per training step; at least one
    question_share: Annotated[float, Range(0, 1, but=(0,))] = 0.2

    def __post_init__(self):
        """A term that is not named is off; so a run goes on when another file has come into rewards/."""
        weights = {**dict.fromkeys(plugins("finemem_jax.rewards"), 0.0), **self.weights}
        object.__setattr__(self, "weights", types.MappingProxyType(weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageConfig:
    credit: Annotated[str, Plugin("credit")] = "step"  # who is compared with whom: a file in credit/
    # credit=state: where samples that wrote from one memory come from. trunk = all of a group write from one memory at
    # every step, and one of them goes on | local = ordinary rollouts, and completions more from some of their memories
    states: Literal["trunk", "local"] = "trunk"
    local_share: Share = 0.25  # local: share of the steps of an episode from whose memory more is written
    local_samples: Annotated[int, Range(2)] = 4  # local: how many completions more
    std: Literal["sample", "none"] = "sample"  # sample (ddof 1) | none (Dr.GRPO: centre only)
    eps: Share = 1e-6  # added to the deviation that is divided by
    min_std: Amount = 0.01  # floor under the deviation, so that a tiny spread is not blown up


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    # Importance ratio of a token: its own | sequence = the geometric mean over its completion (GSPO, whose clips are
    # far narrower: 3e-4 and 4e-4)
    ratio: Literal["token", "sequence"] = "token"
    # ppo = the ratio's gradient stops beyond the clip | cispo = the clipped ratio weighs log p, and every token keeps
    # a gradient (MiniMax-M1 has no lower clip: clip_low=1)
    clip: Literal["ppo", "cispo"] = "ppo"
    clip_low: Share = 0.2  # importance ratio clipped to [1 - clip_low, 1 + clip_high]
    clip_high: Annotated[float, Range(0, also=(math.inf,))] = 0.2  # inf = no upper bound
    # > 1: bound on the loss of negative advantages (Mem-α: 3.0); 0 = off
    dual_clip: Annotated[float, Range(1, but=(1,), also=(0,))] = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"  # of log p / p_ref per token, in the gradient
    kl_coef: Amount = 0.001  # 0 = no reference policy at all
    # Whether the reference reads a turn under the fast weights that it was sampled under: then the KL term holds back
    # the parameters alone, and not what was remembered
    reference_sees_fast: bool = True
    # What the sum over tokens is divided by
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    constant_length: Count = 2048  # aggregation constant: tokens are divided by rows * this
    engine_ratio_cap: Amount = 0.0  # > 0: old log-probs are the trainer's; ratio trainer / engine, at most this, weighs
    entropy: bool = False  # log the policy's exact mean entropy, nats per token; costs another pass over the logits


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    lr: Annotated[float, Range(0, 10)] = 1e-6  # peak learning rate of AdamW
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # decay ends at 0 on the last update
    warmup: Share = 0.05  # share of all updates spent rising from 0
    b1: Annotated[float, Range(0, 1, but=(1,))] = 0.9  # decay of the first moment
    b2: Annotated[float, Range(0, 1, but=(1,))] = 0.95  # decay of the second moment
    eps: Annotated[float, Range(0, 1, but=(0,))] = 1e-8  # added to the root of the second moment
    weight_decay: Amount = 0.01  # decoupled, times the learning rate
    max_grad_norm: Amount = 1.0  # global-norm clip; 0 = off
    bf16_momentum: bool = False  # first moment in bfloat16


# --------------------------------------------------------------------------------------------------------------
# The runs: train, sft, eval
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    steps: Natural = 200  # of the run, counted from its beginning; 0 = only the evaluation before
    # The run also ends before the step at which so many tokens were sampled in all; 0 = no such bound. For comparisons
    # at equal cost
    budget_tokens: Natural = 0
    budget_answers: Natural = 0  # the same for different questions put to the answerer in the rollouts
    # first: the run ends when one of its budgets is spent | all: when all are; it is then evaluated where each one was,
    # so that one run is compared at equal tokens and at equal answers
    budget_until: Literal["first", "all"] = "first"
    episodes: Count = 32  # episodes (groups) per step
    group_size: Count = 8  # G: rollouts per episode
    temperature: Annotated[float, Range(1e-06)] = 1.0  # of the sampling of rollouts, and of the log-probs in the loss
    top_k: Natural = 0  # training refuses any other value: the loss knows tempered log-probs only
    top_p: Annotated[float, Range(0, 1, but=(0,))] = 1.0  # likewise
    # Groups whose samples all earned the same: keep = they count in the update | drop = they do not | refill = further
    # episodes are drawn in their place
    resample: Literal["keep", "drop", "refill"] = "keep"
    resample_most: Natural = 32  # refill: further episodes per step at most
    # Most chunks of a training episode, for equal shares of the run, e.g. (4, 8, 16); () = all of them. A longer
    # episode is cut, and keeps the questions that its first chunks answer
    curriculum: tuple[Count, ...] = ()
    epochs: Count = 1  # passes over a batch of rollouts
    mini_batches: Count = 1  # optimizer updates per pass
    microbatch_rows: Count = 8  # rows per forward and backward, of each process; the loss is exact for any value
    row_tokens: Natural = 0  # length of a packed row, tokens; 0 = chosen for the least padding
    # What the turns of a group at one index begin with stands in a row once, before them, and is computed once: the
    # same update in fewer tokens. Where XLA attends (CPUs); the kernels of TPUs and GPUs do not know of it
    share_prefixes: bool = False
    logprob_chunk: Count = 512  # positions of each row whose logits exist at once
    checkpoint_every: Count = 25  # steps between checkpoints
    keep_checkpoints: Count = 3  # the newest so many are kept,
    keep_best: Natural = 1  # and so many with the best mean held-out accuracy
    eval_every: Natural = 50  # 0 = only before and after
    log_rollouts: Natural = 1  # episodes per step whose rollouts are written to rollouts.jsonl, for the report
    # Which: first = as they were drawn | random | instructive = those whose samples differ most in what a step earned
    log_rule: Literal["first", "random", "instructive"] = "instructive"
    log_rollouts_mb: Amount = 200.0  # most megabytes of rollouts.jsonl, every step having an equal part of them


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """How imperfect the scripted expert is. Probabilities in [0, 1]."""

    keep_useful: Share = 0.6  # a fact or a labelled example is written
    keep_noise: Share = 0.4  # a line of chit-chat is written
    update_changed: Share = 0.4  # a changed fact is written as UPDATE of the old item instead of INSERT
    update_wrong: Share = 0.0  # a changed fact not written so, or not in memory, is an UPDATE of any item
    skip: Share = 0.05  # the whole step is a SKIP


Stage = Literal["copy_random", "copy_lines", "copy_shuffled", "expert", "demonstrations", "traces"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Warm start: a curriculum, then imitation of a scripted, imperfect expert (`sft.py`)."""

    stages: tuple[Stage, ...] = ("expert",)  # in order
    steps: tuple[Count, ...] = (200,)  # optimizer steps of each stage
    lr: tuple[Annotated[float, Range(0, 10)], ...] = (1e-5,)  # peak learning rate of each stage
    batch: Count = 32  # sequences per step
    # Share of sequences whose non-structural tokens are permuted (not in copy_random); -1 = 0 with model.path, whose
    # tokenizer may spell calls with tokens that a permutation makes noise of, else 0.25
    permuted: Annotated[float, Range(0, 1, also=(-1,))] = -1.0
    # expert: share of copying sequences mixed in, against forgetting; -1 = likewise
    copy_mix: Annotated[float, Range(0, 1, also=(-1,))] = -1.0
    update_mix: Share = 0.0  # copy_shuffled, expert: share of exercises in looking up the item to update
    answer_mix: Share = 0.0  # demonstrations: share of turns that answer, beside those drawn from all
    pool: Count = 2048  # distinct episodes the expert is run on
    traces: Text = ""  # JSON lines of recorded turns for the stage "traces" (`imitation/traces.py` has the fields)
    save_dtype: Literal["float32", "bfloat16"] = "float32"  # dtype of the written folder
    checkpoint_every: Count = 100  # steps; train.keep_checkpoints and train.keep_best say how many are kept
    # steps between evaluations on held-out episodes, one before the first included; 0 = only after
    eval_every: Natural = 0
    eval_examples: Natural = 128  # turns of the expert on held-out episodes whose nll every evaluation gives; 0 = none
    expert: ExpertConfig = field(default_factory=ExpertConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    episodes: Natural = 64  # held-out episodes; 0 = all
    temperatures: tuple[Amount, ...] = (1.0, 0.0)  # one evaluation each; 0 = greedy
    # Contestants; those that write with a model (untrained, memagent, mem0_paper, …) in `finemem evaluate` only
    baselines: tuple[Annotated[str, Plugin("baselines")], ...] = ("no_memory", "store_all", "expert", "oracle")
    # What is said beyond accuracy; some of it (failure_causes, facts, spending) in `finemem evaluate` only
    measures: tuple[Annotated[str, Plugin("measures")], ...] = (
        "memory_length",
        "operations",
        "completion_length",
        "failure_causes",
        "facts",
        "spending",
    )
    # strict = env/scoring.py | reference = Mem-α's published scoring, defects included
    metrics: Literal["strict", "reference"] = "strict"
    seed: Seed = 1234  # of the sampling of evaluations
    log_rollouts: Natural = 128  # held-out episodes whose rollouts are written to heldout/, for the report; 0 = none
    recent_k: Count = 5  # recent_k: chunks kept, the answerer sees all of them
    rag_k: Count = 2  # rag: chunks retrieved per question (Mem-α's baseline: 2)
    context_tokens: Count = 30000  # full_context: the last tokens of the stream (Mem-α's baseline: 30,000)
    block: Count = 64  # episodes between two saves of `finemem evaluate`
    policy_model: Text = ""  # --policy=http://…/v1: the served model's name
    bootstrap_resamples: Count = 2000  # of the 95 % intervals over instances


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """One alarm."""

    limit: Amount = 0.0  # the threshold
    # off | warn = a line and alarms.jsonl | stop = also save the state and exit with code 3
    action: Literal["off", "warn", "stop"] = "warn"


MissingGuard = Annotated[GuardConfig, Narrowed(limit=Range(0, 1, but=(0,)))]
ShareGuard = Annotated[GuardConfig, Narrowed(limit=Range(0, 1))]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardsConfig:
    """Alarms (`run/guards.py`), the watchdog of stalls (`run/watchdog.py`), and what a failing part of a run does."""

    # An alarm sounds after so many steps in a row beyond its limit, then after 2, 4, 8 times as many
    patience: Count = 5
    # this many updates in a row were skipped for a loss or gradient of NaN or inf
    non_finite: Annotated[GuardConfig, Narrowed(limit=Range(1))] = GuardConfig(limit=8.0, action="stop")
    # share of (group, step) pairs with a gradient, at or below
    reward_collapse: ShareGuard = GuardConfig(limit=0.0)
    # share of (group, step) pairs without a reward: no answers came, at or above
    missing_rewards: MissingGuard = GuardConfig(limit=0.05)
    # the same, where going on is of no use
    missing_rewards_stop: MissingGuard = GuardConfig(limit=0.5, action="stop")
    # smoothed total reward, this much or more below its best so far
    reward_drop: GuardConfig = GuardConfig(limit=0.5)
    # share of the operations written that are valid, at or below
    format_collapse: ShareGuard = GuardConfig(limit=0.1)
    # share of turns cut off at prompt.max_completion_tokens, at or above
    length_explosion: ShareGuard = GuardConfig(limit=0.5)
    # KL to the reference, nats per token, at or above; measured when loss.kl_coef > 0
    kl: GuardConfig = GuardConfig(limit=10.0)
    # KL of the sampling policy to the updated one, nats per token, at or above
    drift: GuardConfig = GuardConfig(limit=1.0)
    # mean -log p of the sampled tokens, nats, at or below
    entropy_low: GuardConfig = GuardConfig(limit=1e-3)
    # the same, at or above
    entropy_high: GuardConfig = GuardConfig(limit=6.0)
    # seconds in which no step finished; stop ends the process where it stands
    stall: Annotated[GuardConfig, Narrowed(limit=Range(1e-3))] = GuardConfig(limit=3600.0)
    # A checkpoint or log line that cannot be written: warn = go on and try again | stop
    disk_full: Literal["warn", "stop"] = "warn"
    grace: Amount = 25.0  # seconds from SIGTERM to the end of the process, whatever is not saved by then


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """Where metrics go besides the JSON lines, which are always written. Their names: docs/metrics.md."""

    tensorboard: bool = True  # event files in WORKDIR/tensorboard
    wandb: bool = False  # Weights & Biases; needs the extra `wandb`
    wandb_project: Text = "finemem"  # where the run is listed there
    sample_every: Count = 10  # steps between histograms and sample texts


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """A trace of `jax.profiler` and a table of the phases, in WORKDIR/profile (`run/profiling.py`)."""

    steps: Natural = 0  # training steps to trace; 0 = none
    start: Natural = 2  # the first of them; the steps before it compile


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    name: Text = "finemem"  # of the run: the name of its folder where none is given
    seed: Seed = 0  # of everything that is drawn
    model: ModelConfig = field(default_factory=ModelConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
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


def from_ml_collections(tree: Mapping) -> Config:
    """The frozen config of an ml_collections tree (or of nested dicts). Raises UserError on anything unknown."""
    cfg = build(Config, plain(tree), "config")
    validate(cfg)
    return cfg


def validate(cfg: Config) -> None:
    """Raises UserError on an illegal value or a contradiction, naming the fields, before anything is compiled."""
    check(cfg)
    if cfg.train.top_k or cfg.train.top_p != 1.0:
        raise UserError(
            f"config.train.top_k={cfg.train.top_k}, config.train.top_p={cfg.train.top_p}: training samples "
            "from the whole distribution (top_k=0, top_p=1.0); truncation is for evaluation only"
        )
    if cfg.retrieval.name != "bm25" and not cfg.retrieval.model:
        raise UserError(
            f"config.retrieval.name={cfg.retrieval.name} needs config.retrieval.model: the local folder of its encoder"
        )
    if cfg.loss.clip == "cispo" and cfg.loss.dual_clip:
        raise UserError(
            f"config.loss.dual_clip={cfg.loss.dual_clip} bounds the loss of config.loss.clip=ppo; cispo has no such "
            "bound: set it to 0"
        )
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
    if cfg.model.layers_from and not cfg.model.path and cfg.model.tokenizer not in ("tiny", "corpus", "method"):
        raise UserError(
            f"config.model.layers_from={cfg.model.layers_from!r} is for a tokenizer that is built: "
            f"config.model.tokenizer={cfg.model.tokenizer!r}, allowed are tiny, corpus, method"
        )
    if cfg.train.row_tokens % cfg.mesh.sequence:
        raise UserError(
            f"config.train.row_tokens={cfg.train.row_tokens} does not split over config.mesh.sequence="
            f"{cfg.mesh.sequence} devices: make it a multiple, or 0 to choose one"
        )
    if not len(cfg.sft.stages) == len(cfg.sft.steps) == len(cfg.sft.lr):
        raise UserError("config.sft.stages, config.sft.steps and config.sft.lr must have the same length")
    if bool(cfg.sft.traces) != ("traces" in cfg.sft.stages):
        raise UserError(
            f"config.sft.traces={cfg.sft.traces!r} and config.sft.stages={cfg.sft.stages}: recorded turns are trained "
            "on in a stage traces; give both or neither"
        )
    roles = cfg.model.lora.roles
    if roles and not cfg.model.lora.rank:
        raise UserError(f"config.model.lora.roles={roles}: adapters need config.model.lora.rank of at least 1")
    if len(set(roles)) != len(roles) or len(roles) == 1:
        raise UserError(f"config.model.lora.roles={roles}: two roles or more, each once; () = one adapter for all")
    if cfg.model.lora.rank and not cfg.model.lora.targets:
        raise UserError(f"config.model.lora.targets is empty: nothing to train with rank={cfg.model.lora.rank}")
    rest = [axis for axis in ("data", "fsdp", "tensor") if getattr(cfg.mesh, axis) == -1]
    if len(rest) > 1:
        names = " and ".join(f"config.mesh.{axis}" for axis in rest)
        raise UserError(f"{names} are all -1: only one axis can have all the rest of the devices")
