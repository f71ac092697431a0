"""The metric llm_judge: frozen models judge answers, each by a protocol of judges/ (`config.judge.prompt`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import ModuleType

from finemem_jax.config import UserError, plugins, resolve
from finemem_jax.types import Chat, Judge, JudgeRequest, Reply, Verdict

PROTOCOLS = "finemem_jax.judges"


class ModelJudge(Judge):
    """A chat model with a protocol."""

    def __init__(self, chat: Chat, prompt: str = "ours", *, name: str = "", max_tokens: int = 0):
        """name: of the judge, in tables. max_tokens: what the chat gives a reply; a protocol may need more."""
        self.chat, self.prompt, self.name = chat, prompt, name or prompt
        self._max_tokens = max_tokens

    def judge(self, requests: Sequence[JudgeRequest]) -> list[Future[Verdict]]:
        futures = []
        for request in requests:
            protocol = protocol_of(self.prompt, request.task)
            tokens = protocol.TOKENS if self._max_tokens < protocol.TOKENS else 0
            replies = self.chat.submit(protocol.conversations(request), max_tokens=tokens)
            futures.append(_when_all(replies, self._reading(request, protocol)))
        return futures

    def settle(self) -> None:
        self.chat.settle()

    def _reading(self, request: JudgeRequest, protocol: ModuleType) -> Callable[[list[Reply]], Verdict]:
        def read(replies: list[Reply]) -> Verdict:
            return replace(protocol.verdict([reply.text for reply in replies], request), judge=self.name)

        return read


class Panel(Judge):
    """Several judges of everything: the first one's score counts, the others' verdicts are kept beside it."""

    def __init__(self, judges: Sequence[ModelJudge]):
        self.judges = judges

    def judge(self, requests: Sequence[JudgeRequest]) -> list[Future[Verdict]]:
        asked = [judge.judge(requests) for judge in self.judges]
        by_request = zip(*asked, strict=True)
        return [_when_all(said, lambda found: replace(found[0], others=tuple(found[1:]))) for said in by_request]

    def settle(self) -> None:
        for judge in self.judges:
            judge.settle()


def protocol_of(prompt: str, task: str) -> ModuleType:
    """The protocol that a config names, where it knows the task; else the first one that does. Raises UserError where
    none does."""
    own = resolve(PROTOCOLS, prompt)
    if task in own.TASKS:
        return own
    found = (resolve(PROTOCOLS, name) for name in plugins(PROTOCOLS))
    for protocol in found:
        if task in protocol.TASKS:
            return protocol
    raise UserError(f"no file of judges/ judges {task!r}")


def _when_all(asked: Sequence[Future], change: Callable[[list], Verdict]) -> Future[Verdict]:
    """Done when all of `asked` are: with what `change` makes of their values, or the first error among them."""
    future: Future[Verdict] = Future()
    waiting, lock = [len(asked)], threading.Lock()

    def done(_: Future) -> None:
        with lock:
            waiting[0] -= 1
            if waiting[0]:
                return
        try:
            future.set_result(change([one.result() for one in asked]))
        except BaseException as error:  # whoever waits must see it, or waits for ever
            future.set_exception(error)

    if not asked:
        future.set_result(change([]))
    for one in asked:
        one.add_done_callback(done)
    return future
