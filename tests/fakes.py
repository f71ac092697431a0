"""Real, tiny values of the host's types, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from finemem_jax.baselines._contestant import Writer
from finemem_jax.config import Config, MemoryConfig, resolve
from finemem_jax.types import (
    Answer,
    Answerer,
    AnswerRequest,
    Chat,
    Chunk,
    Completion,
    Episode,
    Operation,
    Outcome,
    Question,
    Reply,
    Rollout,
    Step,
)


def count_words(text: str) -> int:
    return len(text.split())


def flat_memory(cfg: MemoryConfig | None = None):
    return resolve("finemem_jax.memory", "flat").create(cfg or MemoryConfig(), count_words)


def episode(chunks: Sequence[str], questions: Sequence[tuple[str, str]] = (), *, source: str = "fake") -> Episode:
    return Episode(
        "fake",
        source,
        tuple(Chunk(text, i) for i, text in enumerate(chunks)),
        tuple(Question(text, (answer,), "exact_match") for text, answer in questions),
    )


def rollout(
    inserted: Sequence[Sequence[str]],
    *,
    questions: Sequence[tuple[str, str]] = (),
    answers: Sequence[Answer] = (),
    outcomes: Sequence[Sequence[bool]] | None = None,
    sample: int = 0,
) -> Rollout:
    """A rollout that inserted the given texts at each step; `outcomes` replaces what became of the operations."""
    memory, steps = flat_memory(), []
    for t, texts in enumerate(inserted):
        operations, results = [], []
        for text in texts:
            operations.append(Operation("memory_insert", {"content": text}))
            memory, outcome = memory.apply(operations[-1], t)
            results.append(outcome)
        if outcomes is not None:
            results = [Outcome("applied" if ok else "malformed: x", ok) for ok in outcomes[t]]
        completion = Completion((1, 2), (-0.5, -0.5), "stop")
        steps.append(Step(t, (3, 4), completion, "", tuple(operations), tuple(results), memory, chunk=t))
    chunks = [" ".join(texts) or "nothing" for texts in inserted]
    return Rollout(episode(chunks, questions), 0, sample, tuple(steps), tuple(answers))


def writer(baseline: str, cfg: Config | None = None) -> Writer:
    """The script of a baseline."""
    return resolve("finemem_jax.baselines", baseline).contestant(cfg or Config()).write


class EchoChat(Chat):
    """A chat model that puts its work off until `settle`, like one on the policy's device. Says what it is told to."""

    def __init__(self, say: Callable[[str], str] = lambda text: f"re: {text[-20:]}"):
        self.say = say
        self.asked: list[str] = []
        self._waiting: list[tuple[str, Future[Reply]]] = []

    def submit(self, conversations, *, max_tokens: int = 0) -> list[Future[Reply]]:
        texts = [messages[-1]["content"] for messages in conversations]
        futures: list[Future[Reply]] = [Future() for _ in texts]
        self._waiting += zip(texts, futures, strict=True)
        return futures

    def settle(self) -> None:
        while self._waiting:
            text, future = self._waiting.pop(0)
            self.asked.append(text)
            future.set_result(Reply(self.say(text), 5, 1))


class LossyAnswerer(Answerer):
    """`inner`, whose replies are lost where `loses` says so."""

    def __init__(self, inner: Answerer, loses: Callable[[AnswerRequest], bool] = lambda request: True):
        self.inner, self.loses = inner, loses

    def submit(self, requests) -> list[Future[Reply]]:
        futures = list(self.inner.submit(requests))  # the inner one may still be reading its own
        for i, request in enumerate(requests):
            if self.loses(request):
                futures[i] = Future()
                futures[i].set_result(Reply(None, problem="HTTP 500"))
        return futures

    def settle(self) -> None:
        self.inner.settle()
