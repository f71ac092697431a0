"""The memory environment: one episode as a coroutine.

A method (`methods/`) yields a `Turn` (a prompt) whenever the policy must act, receives the `Completion`, and returns
how to finish the `Rollout` when its answers are in. It holds no clock, no randomness and no device: whoever drives it
decides what batches with what (`rollouts/collect.py`). Answers are asked for through `ask`, which returns futures: they
are worked on while the policy goes on writing, and nobody waits for them before every episode has been played.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from finemem_jax.config import (
    MemoryConfig,
    MethodConfig,
    PromptConfig,
    RetrievalConfig,
    RewardsConfig,
    UserError,
    ViewConfig,
    resolve,
)
from finemem_jax.env import attribution, operations, prompts, scoring
from finemem_jax.env.probing import NO_PROBING, Probing, wanted
from finemem_jax.env.retrieval import Index, open_index
from finemem_jax.env.speakers import speaker_of
from finemem_jax.types import (
    BEFORE,
    Answer,
    Answerer,
    AnswerRequest,
    Completion,
    CountTokens,
    Episode,
    Judge,
    Judgement,
    JudgeRequest,
    Learn,
    Memory,
    MemoryItem,
    Operation,
    Outcome,
    Probe,
    Question,
    Reply,
    Retrieved,
    Rollout,
    Step,
    ToolSpec,
    Turn,
    Verdict,
    asked_key,
    pass_on,
)

if TYPE_CHECKING:  # transformers takes seconds to import, and a memory needs none of it
    from transformers import PreTrainedTokenizerBase

METHODS, MEMORY = "finemem_jax.methods", "finemem_jax.memory"

_T = TypeVar("_T")

LLM_JUDGE = "llm_judge"  # the metric that no function of the texts computes

Ask = Callable[[list[AnswerRequest]], "list[Future[Reply]]"]


@dataclass(frozen=True, slots=True)
class Environment:
    """What every episode of a run shares."""

    tokenizer: PreTrainedTokenizerBase
    count_tokens: CountTokens
    memory: MemoryConfig
    prompt: PromptConfig
    retrieval: RetrievalConfig
    judge: Judge | None = None  # of questions whose metric is llm_judge
    judged_sources: tuple[str, ...] = ()  # data sources, by their beginning, whose questions are all judged
    method: MethodConfig = field(default_factory=MethodConfig)
    # Whether a rollout that a script writes has the memory after every turn, or only where somebody asks: at the end,
    # at chunks behind which questions are asked and at chunks whose facts are known
    keeps_memories: bool = True

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return resolve(MEMORY, self.memory.name).SPECS

    @property
    def pinned(self) -> tuple[str, ...]:
        """Kinds of items that every turn sees, by the memory's own word and the config's."""
        return (*getattr(resolve(MEMORY, self.memory.name), "PINNED", ()), *self.memory.view.pinned)

    @property
    def pinned_tokens(self) -> int:
        """The most tokens that items of these kinds can have, as far as the memory says; 0 where it does not."""
        limit = getattr(resolve(MEMORY, self.memory.name), "pinned_tokens", None)
        return limit(self.memory) if limit else 0

    @property
    def always_read(self) -> tuple[str, ...]:
        """The same for answering."""
        return (*getattr(resolve(MEMORY, self.memory.name), "PINNED", ()), *self.retrieval.pinned)

    def settle(self, answerer: Answerer) -> None:
        """What answerer and judge put off is done now; the judge after the answers it judges."""
        answerer.settle()
        if self.judge is not None:
            self.judge.settle()

    def empty_memory(self) -> Memory:
        return resolve(MEMORY, self.memory.name).create(self.memory, self.count_tokens)

    def first_memory(self, episode: Episode) -> Memory:
        """What an episode begins with. Raises UserError where memory does not take what the episode gives."""
        if not episode.start:
            return self.empty_memory()
        with naming(episode, "what it begins with"):
            return _given_memory(self.memory, self.count_tokens, episode.start)


@functools.lru_cache(maxsize=256)  # all samples of a group begin with the same
def _given_memory(cfg: MemoryConfig, count_tokens: CountTokens, texts: tuple[str, ...]) -> Memory:
    memory = resolve(MEMORY, cfg.name).create(cfg, count_tokens)
    for text in texts:
        memory, outcome = memory.apply(Operation("memory_insert", {"content": text}), BEFORE)
        if not outcome.ok and outcome.status != "duplicate":
            raise UserError(f"config.memory.name={cfg.name} does not take {text[:80]!r}: {outcome.status}")
    return memory


# A turn is sent its Completion, a write into fast weights what came of it, a Written.
Game = Generator[Turn | Learn, Any, Callable[[], Rollout]]


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of one rollout: the same for all samples of a group."""

    by_chunk: tuple[tuple[Question, ...], ...]  # one tuple per chunk; empty tuples when CSR is off
    final: tuple[Question, ...]
    probing: Probing = NO_PROBING  # what is asked beside them

    def due(self, after: int | None) -> tuple[Question, ...]:
        """The final questions that are asked behind the chunk of that index, or at the end (None)."""
        return tuple(question for question in self.final if question.after == after)


def all_questions(episode: Episode, *, chunk_questions: bool = False) -> Asked:
    """Every final question, as evaluation asks them; chunk questions only on request."""
    by_chunk = tuple(chunk.questions if chunk_questions else () for chunk in episode.chunks)
    return Asked(by_chunk, episode.questions)


def training_questions(episode: Episode, cfg: RewardsConfig, *, asks_chunks: bool, seed: str) -> Asked:
    """A share of the final questions (at least one), and at most K questions per chunk. Drawn once per group.

    What the terms with a weight ask beside them is asked, too."""
    rng = random.Random(seed)
    count = max(1, round(cfg.question_share * len(episode.questions)))
    by_chunk = tuple(_draw(rng, c.questions, cfg.chunk_questions) if asks_chunks else () for c in episode.chunks)
    return Asked(by_chunk, _draw(rng, episode.questions, count), wanted(cfg))


def _draw(rng: random.Random, questions: Sequence[Question], count: int) -> tuple[Question, ...]:
    if len(questions) <= count:
        return tuple(questions)
    return tuple(questions[i] for i in sorted(rng.sample(range(len(questions)), count)))


@contextlib.contextmanager
def naming(episode: Episode, place: str) -> Iterator[None]:
    """Around work on one chunk or question: a mistake in it is reported with the place where it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"episode {episode.id!r}, {place}: {error}") from error


def play(env: Environment, episode: Episode, asked: Asked, ask: Ask, *, group: int = 0, sample: int = 0) -> Game:
    """One rollout of an episode, by the method of the environment. The driver sends a Completion for every Turn. The
    return value is a function that waits for the answers and gives the Rollout, so that the driver decides when to
    wait."""
    return resolve(METHODS, env.method.name).play(env, episode, asked, ask, group=group, sample=sample)


def replay(
    env: Environment, episode: Episode, asked: Asked, ask: Ask, write: Callable[[Episode, Turn], Sequence[Operation]]
) -> Callable[[], Rollout]:
    """A rollout over the stream whose operations no model writes: there is no prompt, so chunks may be of any length,
    and every item can be named."""
    game = resolve(METHODS, "stream").play(env, episode, asked, ask, write=write)
    try:
        next(game)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a method asked for a completion where a writer writes")


def taken(
    turn: Turn,
    completion: Completion,
    text: str,
    parsed: Sequence[Operation],
    outcomes: Sequence[Outcome],
    memory_after: Memory,
) -> Step:
    """The turn with what came of it."""
    return Step(
        turn.index,
        turn.prompt_tokens,
        completion,
        text,
        tuple(parsed),
        tuple(outcomes),
        memory_after,
        turn.role,
        turn.chunk,
        turn.question,
        turn.fast,
    )


def finisher(
    episode: Episode,
    steps: Sequence[Step],
    pending: Sequence[Callable[[], list[Answer]]],
    group: int = 0,
    sample: int = 0,
    probing: Sequence[Callable[[], list[Probe]]] = (),
    judging: Sequence[Callable[[], list[Judgement]]] = (),
) -> Callable[[], Rollout]:
    """What waits for the answers and gives the rollout."""

    def finish() -> Rollout:
        answers = tuple(answer for collect in pending for answer in collect())
        probes = tuple(probe for collect in probing for probe in collect())
        judgements = tuple(judgement for collect in judging for judgement in collect())
        return Rollout(episode, group, sample, tuple(steps), answers, probes, judgements)

    return finish


def decode(tokenizer: PreTrainedTokenizerBase, completion: Completion) -> str:
    """The text of a completion, without the stop token."""
    return text_of(tokenizer, completion.tokens[:-1] if completion.finish == "stop" else completion.tokens)


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of tokens, special ones too."""
    return tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def read(env: Environment, turn: Turn, completion: Completion) -> tuple[str, tuple[Operation, ...]]:
    """The text of a turn, up to where it ends, and the operations in it."""
    text = decode(env.tokenizer, completion)
    text = turn.stop.cut(text) if turn.stop else text
    is_thinking = prompts.opens_thought(env.tokenizer, turn.prompt_tokens)
    is_cut = completion.finish == "length"
    return text, operations.parse(text, env.specs, codec=env.prompt.codec, is_cut=is_cut, is_thinking=is_thinking)


def apply(
    memory: Memory,
    parsed: Sequence[Operation],
    turn: int,
    cfg: MemoryConfig,
    visible: Sequence[MemoryItem],
) -> tuple[Memory, tuple[Outcome, ...]]:
    """The memory after all operations of a turn, each applied to the state the previous one left (`applied`)."""
    outcomes = []
    for after, outcome in applied(memory, parsed, turn, cfg, visible):
        memory = after
        outcomes.append(outcome)
    return memory, tuple(outcomes)


def applied(
    memory: Memory,
    parsed: Sequence[Operation],
    turn: int,
    cfg: MemoryConfig,
    visible: Sequence[MemoryItem],
) -> Iterator[tuple[Memory, Outcome]]:
    """The memory after each operation of a turn, and what became of it.

    Operations beyond `cfg.max_operations` are "over limit"; an id that was not in the prompt is "unknown id". A SKIP
    says that nothing is to be done: beside other calls, or a second time, it is no operation, else every further one
    would buy a share of the format reward.
    """
    known: set[str] | None = None  # looked through when an operation names an item: a memory may have very many
    for position, operation in enumerate(parsed):
        target = None if operation.error else memory.target(operation)
        if target is not None and known is None:
            known = {item.id for item in visible}
        if position >= cfg.max_operations:
            outcome = Outcome("over limit", ok=False)
        elif target is not None and target not in (known or ()):
            outcome = Outcome("unknown id", ok=False)
        else:
            memory, outcome = memory.apply(operation, turn)
            if outcome.status == "skipped" and len(parsed) > 1:
                outcome = Outcome("skip beside other calls", ok=False)
        yield memory, outcome


def turn_prompt(
    env: Environment, chunk: str, items: Sequence[MemoryItem], question: str = "", notice: str = ""
) -> tuple[tuple[int, ...], tuple[MemoryItem, ...]]:
    """Token ids of a writing turn's prompt and the items that are really in it (`prompts.render`)."""
    return prompts.render(
        env.tokenizer,
        env.specs,
        chunk,
        items,
        env.prompt,
        max_operations=env.memory.max_operations,
        question=question,
        notice=notice,
        pinned=env.pinned,
    )


def seen_question(env: Environment, questions: Sequence[Question]) -> str:
    """What a writing turn says of the questions that will be asked at the end; "" unless it may know them."""
    return "\n".join(question.text for question in questions) if env.method.sees_question else ""


def view(memory: Memory, chunk: str, cfg: ViewConfig, env: Environment) -> tuple[MemoryItem, ...]:
    """The items the policy may see, oldest first: the most recently written, those relevant to the chunk,
    or half and half; at most `cfg.max_items` of them, or `cfg.per_kind` of every kind, and `cfg.max_tokens` tokens.
    Beside them stand all items of the pinned kinds."""
    items = memory.items
    most = cfg.per_kind or cfg.max_items
    kinds = _kinds(items, env.pinned, [item.kind for item in items] if cfg.per_kind else None)
    orders = [_view_order(items, kind, most, chunk, cfg, env) for kind in kinds]
    chosen, tokens = [i for i, item in enumerate(items) if item.kind in env.pinned], 0
    for i in alternate(*orders):
        tokens += env.count_tokens(items[i].text)
        if tokens > cfg.max_tokens:
            break
        chosen.append(i)
    return tuple(items[i] for i in sorted(chosen))


def _view_order(
    items: Sequence[MemoryItem], among: Sequence[int], most: int, chunk: str, cfg: ViewConfig, env: Environment
) -> list[int]:
    """The first `most` indices of `among`, the items of most interest first."""
    recent = heapq.nsmallest(most, among, key=lambda i: (-items[i].written_at, -i))
    if cfg.select == "recent":
        return recent
    index = _index([items[i] for i in among], env.retrieval)
    relevant = [among[i] for i, _ in index.search(chunk, most)]
    return (relevant if cfg.select == "relevant" else alternate(relevant, recent))[:most]


def _kinds(items: Sequence[MemoryItem], pinned: Collection[str], names: Sequence[str] | None = None) -> list[list[int]]:
    """Indices of the items that are not pinned, those of one name by themselves where there are names; never none."""
    by_kind: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        if item.kind not in pinned:
            by_kind.setdefault(names[i] if names else "", []).append(i)
    return [by_kind[kind] for kind in sorted(by_kind)] or [[]]


def alternate(*orders: Sequence[_T]) -> list[_T]:
    """The orders interleaved, each element once."""
    merged: dict[_T, None] = {}
    for i in range(max(map(len, orders), default=0)):
        for order in orders:
            if i < len(order):
                merged.setdefault(order[i])
    return list(merged)


def _index(items: Sequence[MemoryItem], cfg: RetrievalConfig) -> Index:
    return open_index([item.text for item in items], cfg)


def ask_questions(
    env: Environment,
    episode: Episode,
    memory: Memory,
    questions: Sequence[Question],
    ask: Ask,
    chunk: int | None,
    probing: Probing = NO_PROBING,
    *,
    find: Callable[[str], tuple[Retrieved, ...]] | None = None,
) -> Callable[[], list[Answer]]:
    """Starts answering `questions` from this snapshot of memory; the result waits for the scored answers.

    The query is the question alone: words of `query_prompt` would pollute BM25.
    probing: whether the answers shall say what they stand in, and be asked for again with items left out. find: how a
    method finds the items for a question; None = by the config's retrieval."""
    if not questions:
        return list
    questions = [judged(env, episode, question) for question in questions]
    find = find or retriever(memory.items, env)
    requests = [
        AnswerRequest(question.text, find(question.text), episode.query_prompt, probing.cites) for question in questions
    ]
    source = episode.source
    scores = [judged_answer(env, q, future, source) for q, future in zip(questions, ask(requests), strict=True)]
    without = [
        _ask_subsets(env, question, request, ask, probing) if probing.rule else tuple
        for question, request in zip(questions, requests, strict=True)
    ]

    def collect() -> list[Answer]:
        answers = []
        for question, request, (reply, score), subsets in zip(questions, requests, scores, without, strict=True):
            text, found = reply.result(), score()
            said = found if found.judge else None
            answers.append(
                Answer(
                    question, request.items, text.text or "", found.score, chunk, text, subsets=subsets(), verdict=said
                )
            )
        return answers

    return collect


def _ask_subsets(
    env: Environment, question: Question, request: AnswerRequest, ask: Ask, probing: Probing
) -> Callable[[], tuple[tuple[int, float | None], ...]]:
    """Starts answering the question from some of its items; the result waits for the scores by set of items."""
    chosen = attribution.subsets(probing.rule, len(request.items), probing.permutations, question.text)
    requests = [
        replace(request, items=tuple(item for i, item in enumerate(request.items) if bits >> i & 1)) for bits in chosen
    ]
    scores = [scored(env, question, future)[1] for future in ask(requests)]
    return lambda: tuple((bits, score()) for bits, score in zip(chosen, scores, strict=True))


def probe(
    env: Environment,
    episode: Episode,
    memory: Memory,
    questions: Sequence[Question],
    ask: Ask,
    chunk: int | None,
    turn: int,
    *,
    after: bool = True,
) -> Callable[[], list[Probe]]:
    """Starts asking `questions` of the memory as it stood after (or before) a turn; the result waits for the scores."""
    collect = ask_questions(env, episode, memory, questions, ask, chunk)

    def probes() -> list[Probe]:
        return [
            Probe(turn, after, chunk, number, a.score, asked_key(a.question.text, [item.text for item in a.retrieved]))
            for number, a in enumerate(collect())
        ]

    return probes


def retriever(items: Sequence[MemoryItem], env: Environment) -> Callable[[str], tuple[Retrieved, ...]]:
    """From a question to the items its answerer sees, within `retrieval.max_tokens`: those of the pinned kinds, then
    the `retrieval.k` best, or the `retrieval.per_kind` best of every kind (or of every speaker)."""
    cfg = env.retrieval
    pinned = [i for i, item in enumerate(items) if item.kind in env.always_read]
    if cfg.select == "all":
        index = _index(items, cfg)
        newest = alternate(pinned + list(reversed(range(len(items)))))
        whole = sorted(fitting(newest, lambda i: items[i].text, env))

        def find_all(question: str) -> tuple[Retrieved, ...]:
            scores = dict(index.search(question, len(items)))
            return tuple(_retrieved(items[i], scores.get(i, 0.0)) for i in whole)

        return find_all
    name_of = speaker_of if cfg.split_by == "speaker" else None
    names = [name_of(item.text) if name_of else item.kind for item in items] if cfg.per_kind else None
    split = _kinds(items, env.always_read, names)
    indices = [(among, _index([items[i] for i in among], cfg)) for among in split]

    def find(question: str) -> tuple[Retrieved, ...]:
        found = [[(among[i], s) for i, s in index.search(question, cfg.per_kind or cfg.k)] for among, index in indices]
        scores = {i: score for of_kind in found for i, score in of_kind}
        order = alternate(*([i for i, _ in of_kind] for of_kind in found))
        chosen = fitting([*pinned, *order], lambda i: items[i].text, env)
        return tuple(_retrieved(items[i], scores.get(i, 0.0)) for i in chosen)

    return find


def _retrieved(item: MemoryItem, score: float) -> Retrieved:
    return Retrieved(item.id, item.written_at, item.writers, item.text, score, item.kind)


def fitting(order: Iterable[_T], text_of: Callable[[_T], str], env: Environment) -> list[_T]:
    """The first of `order` whose texts together fit `retrieval.max_tokens`."""
    found, tokens = [], 0
    for item in order:
        tokens += env.count_tokens(text_of(item))
        if tokens > env.retrieval.max_tokens:
            break
        found.append(item)
    return found


def judged(env: Environment, episode: Episode, question: Question) -> Question:
    """The question with the metric it is scored with."""
    if question.metric == LLM_JUDGE and env.judge is None:
        raise UserError(f"episode {episode.id} asks for an LLM judge: set config.judge.name")
    if env.judge is None or not episode.source.startswith(env.judged_sources):
        return question
    return replace(question, metric=LLM_JUDGE)


def scored(
    env: Environment, question: Question, reply: Future[Reply]
) -> tuple[Future[Reply], Callable[[], float | None]]:
    """The reply, and how to get its score in [0, 1]; None where the answerer or the judge failed."""
    reply, verdict = judged_answer(env, question, reply)
    return reply, lambda: verdict().score


def judged_answer(
    env: Environment, question: Question, reply: Future[Reply], source: str = ""
) -> tuple[Future[Reply], Callable[[], Verdict]]:
    """The reply, and how to get what is said of it: by the judges where the metric asks for them, else a bare score."""
    if question.metric != LLM_JUDGE:

        def score() -> Verdict:
            text = reply.result().text
            return Verdict(None if text is None else scoring.score(question.metric, text, question.answers))

        return reply, score

    verdict: Future[Verdict] = Future()

    def judge(answered: Future[Reply]) -> None:  # as soon as the answer is there, in the answerer's thread
        text = answered.result().text if answered.exception() is None else None
        if text is None:
            verdict.set_result(Verdict(None))
            return
        try:
            assert env.judge is not None  # `judged` refuses the question otherwise
            request = JudgeRequest(question.text, question.answers, text, question.kind, source, question.rubric)
            pass_on(env.judge.judge([request])[0], verdict)
        except Exception as error:  # in a callback nobody else would see it
            verdict.set_exception(error)

    reply.add_done_callback(judge)
    return reply, verdict.result
