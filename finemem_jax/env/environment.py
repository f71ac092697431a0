"""The memory environment: one episode as a coroutine.

`play` yields a `Turn` (a prompt) whenever the policy must write, receives the `Completion`, and returns how to finish
the `Rollout` when its answers are in. It holds no clock, no randomness and no device: whoever drives it decides what
batches with what (`collect.py`). Answers are asked for through `ask`, which returns futures: they are worked on while
the policy goes on writing, and nobody waits for them before every episode has been played.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from finemem_jax.config import MemoryConfig, PromptConfig, RetrievalConfig, RewardsConfig, ViewConfig, resolve
from finemem_jax.env import operations, prompts, scoring
from finemem_jax.env.retrieval import BM25
from finemem_jax.types import (
    Answer,
    AnswerRequest,
    Completion,
    CountTokens,
    Episode,
    Memory,
    MemoryItem,
    Operation,
    Outcome,
    Question,
    Reply,
    Retrieved,
    Rollout,
    Step,
    ToolSpec,
)

Ask = Callable[[list[AnswerRequest]], "list[Future[Reply]]"]


@dataclass(frozen=True, slots=True)
class Environment:
    """What every episode of a run shares."""

    tokenizer: PreTrainedTokenizerBase
    count_tokens: CountTokens
    memory: MemoryConfig
    prompt: PromptConfig
    retrieval: RetrievalConfig

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return resolve("finemem_jax.memory", self.memory.name).SPECS

    def empty_memory(self) -> Memory:
        return resolve("finemem_jax.memory", self.memory.name).create(self.memory, self.count_tokens)


@dataclass(frozen=True, slots=True)
class Turn:
    """The policy's turn at step t: what it reads."""

    step: int
    prompt_tokens: tuple[int, ...]
    memory: Memory  # M_{t-1}
    visible: tuple[MemoryItem, ...]  # the items in the prompt; operations can name no others


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of one rollout: the same for all samples of a group."""

    by_chunk: tuple[tuple[Question, ...], ...]  # one tuple per chunk; empty tuples when CSR is off
    final: tuple[Question, ...]


def all_questions(episode: Episode, *, chunk_questions: bool = False) -> Asked:
    """Every final question, as evaluation asks them; chunk questions only on request."""
    by_chunk = tuple(chunk.questions if chunk_questions else () for chunk in episode.chunks)
    return Asked(by_chunk, episode.questions)


def training_questions(episode: Episode, cfg: RewardsConfig, *, asks_chunks: bool, seed: str) -> Asked:
    """A share of the final questions (at least one), and at most K questions per chunk. Drawn once per group."""
    rng = random.Random(seed)
    count = max(1, round(cfg.question_share * len(episode.questions)))
    by_chunk = tuple(_draw(rng, c.questions, cfg.chunk_questions) if asks_chunks else () for c in episode.chunks)
    return Asked(by_chunk, _draw(rng, episode.questions, count))


def _draw(rng: random.Random, questions: Sequence[Question], count: int) -> tuple[Question, ...]:
    if len(questions) <= count:
        return tuple(questions)
    return tuple(questions[i] for i in sorted(rng.sample(range(len(questions)), count)))


def play(
    env: Environment, episode: Episode, asked: Asked, ask: Ask, *, group: int = 0, sample: int = 0
) -> Generator[Turn, Completion, Callable[[], Rollout]]:
    """One rollout of an episode. The driver sends a Completion for every Turn. The return value is a function that
    waits for the answers and gives the Rollout, so that the driver decides when to wait."""
    memory, steps, pending = env.empty_memory(), [], []
    for chunk, questions in zip(episode.chunks, asked.by_chunk, strict=True):
        shown = view(memory, chunk.text, env.memory.view, env)
        tokens, visible = prompts.render(
            env.tokenizer, env.specs, chunk.text, shown, env.prompt, max_operations=env.memory.max_operations
        )
        completion = yield Turn(chunk.index, tokens, memory, visible)
        text = decode(env.tokenizer, completion)
        parsed = operations.parse(text, env.specs, codec=env.prompt.codec)
        memory, outcomes = apply(memory, parsed, chunk.index, env.memory, visible)
        steps.append(Step(tokens, completion, text, parsed, outcomes, memory))
        if questions:
            pending.append(_ask(env, episode, memory, questions, ask, chunk.index))
    pending.append(_ask(env, episode, memory, asked.final, ask, None))

    def finish() -> Rollout:
        return Rollout(
            episode, group, sample, tuple(steps), tuple(answer for collect in pending for answer in collect())
        )

    return finish


def decode(tokenizer: PreTrainedTokenizerBase, completion: Completion) -> str:
    """The text of a completion, without the stop token."""
    tokens = completion.tokens[:-1] if completion.finish == "stop" else completion.tokens
    return tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def apply(
    memory: Memory,
    parsed: Sequence[Operation],
    step: int,
    cfg: MemoryConfig,
    visible: Sequence[MemoryItem],
) -> tuple[Memory, tuple[Outcome, ...]]:
    """The memory after all operations of a step, each applied to the state the previous one left.

    Operations beyond `cfg.max_operations` are "over limit"; an id that was not in the prompt is "unknown id".
    """
    known = {item.id for item in visible}
    outcomes = []
    for position, operation in enumerate(parsed):
        if position >= cfg.max_operations:
            outcomes.append(Outcome("over limit", ok=False))
        elif not operation.error and "id" in operation.arguments and operation.target not in known:
            outcomes.append(Outcome("unknown id", ok=False))
        else:
            memory, outcome = memory.apply(operation, step)
            outcomes.append(outcome)
    return memory, tuple(outcomes)


def view(memory: Memory, chunk: str, cfg: ViewConfig, env: Environment) -> tuple[MemoryItem, ...]:
    """The items the policy may see, oldest first: the most recently written, those relevant to the chunk by BM25,
    or half and half; at most `cfg.max_items` of them and `cfg.max_tokens` tokens."""
    items = memory.items
    recent = sorted(range(len(items)), key=lambda i: (-items[i].written_at, -i))
    if cfg.select == "recent":
        order = recent
    else:
        relevant = [i for i, _ in _bm25(items, env.retrieval).search(chunk, cfg.max_items)]
        order = relevant if cfg.select == "relevant" else _alternate(relevant, recent)
    chosen, tokens = [], 0
    for i in order[: cfg.max_items]:
        tokens += env.count_tokens(items[i].text)
        if tokens > cfg.max_tokens:
            break
        chosen.append(i)
    return tuple(items[i] for i in sorted(chosen))


def _alternate(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Both orders interleaved, each index once."""
    merged: dict[int, None] = {}
    for i in range(max(len(first), len(second))):
        for order in (first, second):
            if i < len(order):
                merged.setdefault(order[i])
    return list(merged)


def _bm25(items: Sequence[MemoryItem], cfg: RetrievalConfig) -> BM25:
    return BM25([item.text for item in items], k1=cfg.k1, b=cfg.b, idf=cfg.idf)


def _ask(
    env: Environment, episode: Episode, memory: Memory, questions: Sequence[Question], ask: Ask, step: int | None
) -> Callable[[], list[Answer]]:
    """Starts answering `questions` from this snapshot of memory; the result collects the scored answers.

    The query is the question alone: words of `query_prompt` would pollute BM25."""
    if not questions:
        return list
    index = _bm25(memory.items, env.retrieval)
    requests = []
    for question in questions:
        found = [
            Retrieved(item.id, item.written_at, item.writers, item.text, score)
            for item, score in ((memory.items[i], s) for i, s in index.search(question.text, env.retrieval.k))
        ]
        requests.append(AnswerRequest(question.text, tuple(found), episode.query_prompt))
    futures = ask(requests)

    def collect() -> list[Answer]:
        return [
            _marked(question, request, future.result(), step)
            for question, request, future in zip(questions, requests, futures, strict=True)
        ]

    return collect


def _marked(question: Question, request: AnswerRequest, reply: Reply, step: int | None) -> Answer:
    score = None if reply.text is None else scoring.score(question.metric, reply.text, question.answers)
    return Answer(question, request.items, reply.text or "", score, step)
