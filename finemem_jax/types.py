"""The vocabulary of the host side: what flows from a benchmark to a reward.

    Episode -> (Chunk -> Step with Operations and Outcomes)* -> Answers -> Rollout

Every type is an immutable value, so snapshots of a memory and the G rollouts of a group can share parts
without aliasing. Model misbehaviour (bad JSON, an unknown id) is data in a `Step`, never an exception.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

CountTokens = Callable[[str], int]
"""Length of a text in tokens of the policy's own tokenizer; the only unit of memory length."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answers and the name of the metric in `env/scoring.py` that judges it."""

    text: str
    answers: tuple[str, ...]
    metric: str = "substring_match"
    kind: str = ""  # free label for reporting, e.g. "fact", "changed", "label"
    evidence: tuple[int, ...] = ()  # chunk indices known to hold the answer; empty where unknown
    lines: tuple[str, ...] = ()  # the lines of these chunks, word for word, that hold it; empty where unknown
    # Asked as soon as the chunk of this index has been written; None = at the end. Those that have one come first among
    # an episode's, in its order
    after: int | None = None
    id: str = ""  # what its benchmark calls it, unique there; "" where nobody needs to name it
    rubric: tuple[str, ...] = ()  # what a good answer does, one thing each, judged one by one; empty = by `answers`


@dataclass(frozen=True, slots=True)
class Point:
    """A fact that a chunk states and a good memory holds behind it; or one that it must not hold."""

    text: str
    kind: str = ""  # free label: "fact", "Persona Memory", …
    importance: float = 1.0  # >= 0, unitless
    replaces: tuple[str, ...] = ()  # earlier facts that it makes out of date, as they were stated; () = it is new
    is_false: bool = False  # said only to mislead (HaluMem's interference): a good memory does not take it
    # Where texts can tell: words that stand in a row in whatever states it, and those that say what it is about
    value: str = ""
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of the stream; `index` counts from 0; `questions` are about this chunk alone."""

    text: str
    index: int
    questions: tuple[Question, ...] = ()
    time: str = ""  # when it was said, ISO 8601; "" where unknown
    # The facts in it, and in the chunks before it of the same session; None where they are not known, () where it is
    # known that nothing in it is worth keeping
    points: tuple[Point, ...] | None = None
    session: str = ""  # neighbours with the same name are one session, its points stand at the last; "" = by itself


@dataclass(frozen=True, slots=True)
class Episode:
    """A stream of chunks with questions at its end. `query_prompt` is shown to a model answerer, never to BM25.

    With a `start` there may be no chunks at all: the questions are then answered from what is given."""

    id: str
    source: str
    chunks: tuple[Chunk, ...]
    questions: tuple[Question, ...]
    query_prompt: str = ""
    start: tuple[str, ...] = ()  # what memory holds before the first chunk, a text for each item, the oldest first


BEFORE = -1
"""Stands for the turn that wrote an item with which the episode began."""


@dataclass(frozen=True, slots=True)
class MemoryItem:
    """One item of memory. `id` is unique in its episode, short and never reused."""

    id: str
    text: str
    written_at: int  # φ(m): turn of the last INSERT or UPDATE that changed what it says
    kind: str = ""  # the store it lives in, for a memory that has several; "" in a flat one
    writers: tuple[int, ...] = ()  # every turn that changed what it says, oldest first; the last equals `written_at`


@dataclass(frozen=True, slots=True)
class Operation:
    """A parsed call. `name` is the tool's name; `error` is set when the call could not be parsed."""

    name: str
    arguments: dict[str, object] = field(default_factory=dict)
    error: str = ""


class Call(NamedTuple):
    """A call as a codec found it: any name, any arguments. `error` says why it could not be read."""

    name: str
    arguments: object = None
    error: str = ""


VERBS = ("insert", "update", "delete", "skip", "replace")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one operation. `status` is "applied", "skipped" (an explicit SKIP) or the reason it failed:
    "duplicate", "unknown id", "over limit", "malformed: ...". `ok` says whether it counts as well-formed."""

    status: str
    ok: bool
    item: str = ""  # id of the item written or removed
    evicted: tuple[str, ...] = ()  # ids removed by the overflow rule
    verb: str = ""  # what the operation does, whatever its tool is called: a word of VERBS; "" where it is malformed


class Memory(Protocol):
    """An immutable memory: `apply` returns a new value."""

    @property
    def items(self) -> tuple[MemoryItem, ...]:
        """All items, oldest first."""

    def apply(self, operation: Operation, step: int) -> tuple[Memory, Outcome]: ...

    def tokens(self) -> int:
        """Length of the contents in tokens of the policy's tokenizer; ids are not counted."""

    def target(self, operation: Operation) -> str | None:
        """Id of the item that an operation names, None where it names none. It must be one in view."""
        return None

    def notice(self) -> str:
        """What its writer is to be told at the next turn, e.g. that a write was refused; "" = nothing."""
        return ""

    def state(self) -> dict[str, Any]:
        """What `restore` of its file needs beside the items to make it again between two turns; values of JSON."""
        return {}

    def without(self, ids: Collection[str]) -> Memory:
        """The memory without these items, on somebody's order; no later one has their ids."""
        return self


class NotKept(Memory):
    """Stands for a memory on the way that nobody will look at: in an episode of ten million tokens the memories after
    every turn, held all at once, are larger than any machine."""

    @property
    def items(self) -> tuple[MemoryItem, ...]:
        raise RuntimeError("the memory after this turn was not kept")

    def apply(self, operation: Operation, step: int) -> tuple[Memory, Outcome]:
        raise RuntimeError("the memory after this turn was not kept")

    def tokens(self) -> int:
        raise RuntimeError("the memory after this turn was not kept")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One operation as offered to the policy: an OpenAI-style function schema, all arguments strings."""

    name: str
    description: str
    parameters: dict[str, str]  # argument name -> description
    optional: tuple[str, ...] = ()  # arguments that may be left out
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # argument name -> the only values it may have

    @property
    def required(self) -> list[str]:
        return [name for name in self.parameters if name not in self.optional]

    def schema(self) -> dict:
        """The JSON schema that chat templates take in `tools=`."""
        properties = {
            name: {"type": "string", "description": text}
            | ({"enum": list(self.choices[name])} if name in self.choices else {})
            for name, text in self.parameters.items()
        }
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {"type": "object", "properties": properties, "required": self.required},
            },
        }

    def example(self, text: str) -> dict[str, object]:
        """Arguments of a call, with every argument: `text`, or the first value where only some are allowed."""
        return {name: self.choices[name][0] if name in self.choices else text for name in self.parameters}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn. Training uses temperature alone; top_k and top_p are for evaluation."""

    temperature: float = 1.0  # > 0, or 0 for greedy
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    max_tokens: int = 128
    min_tokens: int = 0  # stop tokens are masked before this many tokens
    stop_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """Sampled tokens (the stop token included, when one was sampled) with their log-probabilities.

    finish: a stop token was sampled, a stop string of the turn is complete, or the budget is spent."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]  # tempered, untruncated, float32; one per token
    finish: Literal["stop", "string", "length"]


class Stops(Protocol):
    """Texts that end a completion where the first of them is complete (`env/stopping.py`)."""

    def length(self, tokens: Sequence[int], start: int = 0) -> int:
        """How many tokens there are up to there, where the first `start` hold none of the texts; 0 where there is
        none."""

    def cut(self, text: str) -> str:
        """The text up to there, all of it where there is none."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text that fast weights learn: its tokens from `start` on, given those before."""

    tokens: tuple[int, ...]
    start: int = 1  # at least 1: nothing predicts the first token


@dataclass(frozen=True, slots=True)
class Learn:
    """The writing of fast weights: those numbered `fast` (0 = none: zeros) learn the lessons, and become others."""

    lessons: tuple[Lesson, ...]
    fast: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write into fast weights. `number` names the weights that it made."""

    number: int  # at least 1; 0 stands for none, wherever weights are named
    loss_before: float  # nats per learned token, over all that was learned
    loss_after: float


WRITE, ANSWER, SEARCH, EXTRACT = "write", "answer", "search", "extract"
"""Roles of a turn: what the policy is asked to do in it."""

ROLES = (WRITE, ANSWER, SEARCH, EXTRACT)


@dataclass(frozen=True, slots=True)
class Turn:
    """The policy's turn: what it reads, what it is asked to do, and about what."""

    index: int  # running number in the rollout, from 0; the last word of its sampling key
    prompt_tokens: tuple[int, ...]
    memory: Memory  # as it stands before the turn
    visible: tuple[MemoryItem, ...]  # the items in the prompt; operations can name no others
    messages: Messages = ()  # the prompt before the chat template, where it is not `prompts.conversation`
    role: str = WRITE
    chunk: int | None = None  # index of the chunk it is about
    question: int | None = None  # index, among the final questions that are asked, of the one it is about
    max_tokens: int = 0  # limit of its completion, tokens; 0 = config.prompt.max_completion_tokens
    stop: Stops | None = None  # texts that end its completion, beside the end of a turn
    fast: int = 0  # number of the fast weights that it is taken under; 0 = none


@dataclass(frozen=True, slots=True)
class Step:
    """A turn with what came of it."""

    index: int
    prompt_tokens: tuple[int, ...]
    completion: Completion
    text: str  # the completion, decoded, without the stop token
    operations: tuple[Operation, ...]
    outcomes: tuple[Outcome, ...]
    memory_after: Memory
    role: str = WRITE
    chunk: int | None = None
    question: int | None = None
    fast: int = 0  # number of the fast weights it was sampled under, in the engine that did; 0 = none
    state: str = ""  # names, within the group, the memory that several of its turns wrote from; "" = it alone did


@dataclass(frozen=True, slots=True)
class Retrieved:
    """An item as it was when it was retrieved for a question."""

    id: str
    written_at: int
    writers: tuple[int, ...]
    text: str
    score: float = 0.0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model or an answerer gave. `text` is None where it failed after its retries: missing, not wrong."""

    text: str | None
    prompt_tokens: int = 0  # as the model's own tokenizer counts them; 0 without a model
    completion_tokens: int = 0
    key: str = ""  # names the conversation: replies with the same key cost one call
    # Places, among the request's items, of those it says it used; None where it was not asked to say
    cited: tuple[int, ...] | None = None
    problem: str = ""  # why `text` is None, or why it is no answer: it was cut off before one began


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered question. `score` in [0, 1], or None when the answerer failed: missing, not wrong."""

    question: Question
    retrieved: tuple[Retrieved, ...]
    text: str
    score: float | None
    chunk: int | None = None  # index of the chunk for chunk questions, None for final questions
    reply: Reply | None = None  # what it cost
    turn: int | None = None  # index of the policy's turn that gave it, None where the answerer did
    # Scores with some of the retrieved items left out, by set of items (`env/attribution.py`); None = missing
    subsets: tuple[tuple[int, float | None], ...] = ()
    verdict: Verdict | None = None  # of the judges; None where the text alone was scored


@dataclass(frozen=True, slots=True)
class Probe:
    """A question that was asked of a memory on the way, for what it tells about a turn."""

    turn: int  # index of the turn that it tells about
    after: bool  # whether memory was asked as the turn left it, or as it found it
    chunk: int | None  # index of the chunk it is about, None for a final question
    number: int  # its place among those about that chunk, or among the final ones
    score: float | None  # in [0, 1], or None when the answerer failed: missing, not wrong
    asked: int = 0  # `asked_key` of the question and what was retrieved for it


class Flow(NamedTuple):
    """Part of a reward that a final question gave to turns; each of them gets an equal part of `amount`."""

    question: int  # its place among the final ones
    item: int | None  # the place, among the items retrieved for it, of the one it was given for; None = for none
    turns: Sequence[int]  # places among the writing turns; none where it was given to nobody
    amount: float


def asked_key(question: str, texts: Sequence[str]) -> int:
    """A number for a question with its items: who asks it again is told what was answered before."""
    return zlib.crc32(repr((question, *texts)).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of something that a turn wrote, because a reward term wanted to know."""

    term: str  # file in rewards/ that asked
    turn: int  # index of the turn
    place: int  # of the operation, in the turn
    score: float | None  # in [0, 1], or None when the judge failed: missing, not wrong


@dataclass(frozen=True, slots=True)
class Recall:
    """A question about what was just learned, answered from the weights alone, before the write and after it."""

    question: str
    before: str
    score_before: float | None  # in [0, 1]; None when the judge failed
    after: str
    score_after: float | None


@dataclass(frozen=True, slots=True)
class FastWrite:
    """A write into fast weights, as records show it."""

    turn: int | None  # index of the turn that said what is learned; None where the text itself is
    chunks: tuple[int, ...]  # that were read since the write before
    texts: int  # that were learned
    tokens: int  # learned of them
    loss_before: float  # nats per learned token
    loss_after: float
    recalls: tuple[Recall, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled trajectory of an episode: sample `sample` of group `group`."""

    episode: Episode
    group: int
    sample: int
    steps: tuple[Step, ...]  # every turn, in order, whatever its role
    answers: tuple[Answer, ...]
    probes: tuple[Probe, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    # Its turns wrote from memories of other samples: it has no end of its own, and nothing is measured there
    branches: bool = False
    writes: tuple[FastWrite, ...] = ()  # into fast weights, in order

    def of(self, role: str) -> tuple[Step, ...]:
        """The turns of one role, in order."""
        return tuple(step for step in self.steps if step.role == role)

    @property
    def final_answers(self) -> tuple[Answer, ...]:
        """Those to the questions at the end, in the order they were asked."""
        return tuple(answer for answer in self.answers if answer.chunk is None)

    @property
    def memory(self) -> Memory | None:
        """M_T, what memory holds after the last turn; None where there was none."""
        return self.steps[-1].memory_after if self.steps else None

    def memory_after(self, chunk: int | None) -> Memory | None:
        """What memory holds behind the last turn about that chunk or an earlier one; None = the last turn of all."""
        if chunk is None:
            return self.memory
        return next((s.memory_after for s in reversed(self.steps) if s.chunk is not None and s.chunk <= chunk), None)


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """What an answerer sees of a question: its text, the retrieved items, best first, and the source's hint.

    There is no gold answer in it."""

    question: str
    items: tuple[Retrieved, ...]
    query_prompt: str = ""
    cites: bool = False  # whether the reply shall say which items it used


Messages = Sequence[Mapping[str, str]]
"""A conversation as chat models take it: {"role": "system" | "user" | "assistant", "content": text}."""


class AnswererDown(RuntimeError):
    """The server gave no answer at all for longer than its budget. Everything answered before is in the cache."""


_T = TypeVar("_T")


def pass_on(source: Future[_T], target: Future[Any], change: Callable[[_T], Any] = lambda value: value) -> None:
    """When `source` is done, `target` is too: with its value, changed, or with its error."""

    def done(source: Future[_T]) -> None:
        try:
            target.set_result(change(source.result()))
        except BaseException as error:  # whoever waits for `target` must see it, or waits for ever
            target.set_exception(error)

    source.add_done_callback(done)


class Chat(Protocol):
    """A frozen chat model: an HTTP server, or the decoding engine."""

    def submit(self, conversations: Sequence[Messages], *, max_tokens: int = 0) -> list[Future[Reply]]:
        """Starts all of them and returns at once; one future per conversation, in order. A future raises
        AnswererDown, or UserError where the server refuses everything (key, address, model).

        max_tokens: limit of these replies, tokens; 0 = the one that the model was set up with."""

    def settle(self) -> None:
        """Does now, in this thread, what was put off so as not to take the device from the policy."""


class Answerer(Protocol):
    """A frozen reasoning agent: requests -> texts, asynchronously. Files in answerers/ export `create(cfg, local)`."""

    def submit(self, requests: Sequence[AnswerRequest]) -> list[Future[Reply]]:
        """Starts answering all of them and returns at once; one future per request, in order."""

    def settle(self) -> None:
        """Does now, in this thread, what was put off so as not to take the device from the policy."""

    def spent(self) -> dict[str, float]:
        """What this process spent so far: calls, answers from the cache, missing ones, tokens, money. Empty without a
        model."""
        return {}

    def answer(self, requests: Sequence[AnswerRequest]) -> list[str | None]:
        """Asks and waits: one text per request, in order; None where the answerer failed."""
        futures = self.submit(requests)
        self.settle()
        return [future.result().text for future in futures]


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """An answer to be judged against the gold answers; or something else, which a file of judges/ knows as `task`."""

    question: str
    answers: tuple[str, ...]
    text: str
    kind: str = ""  # of the question
    source: str = ""  # of its episode
    rubric: tuple[str, ...] = ()  # what a good answer does, judged one by one
    task: str = "answer"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said."""

    score: float | None  # in [0, 1]; None where the judge failed or named no label, or several: missing, not wrong
    label: str = ""  # in the words of its protocol
    judge: str = ""  # model and protocol
    others: tuple[Verdict, ...] = ()  # of further judges, which do not count for the score


class Judge(Protocol):
    """A frozen model that says whether an answer is right."""

    def judge(self, requests: Sequence[JudgeRequest]) -> list[Future[Verdict]]:
        """One verdict per request, in order."""

    def submit(self, requests: Sequence[JudgeRequest]) -> list[Future[float | None]]:
        """The scores alone: in [0, 1]; None where the model failed or gave no verdict."""
        futures: list[Future[float | None]] = [Future() for _ in requests]
        for asked, future in zip(self.judge(requests), futures, strict=True):
            pass_on(asked, future, lambda verdict: verdict.score)
        return futures

    def settle(self) -> None:
        """Does now, in this thread, what was put off."""
