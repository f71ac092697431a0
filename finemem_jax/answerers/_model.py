"""What all answerers that use a model share: the prompt, and how a reply is read.

The order inside the prompt is for a server's prefix cache: instructions and the source's hint first (the same for all
questions of a source), then the items, then the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from finemem_jax.chat.asked_once import AskedOnce
from finemem_jax.chat.http import HttpChat
from finemem_jax.config import AnswererConfig, UserError, resolve
from finemem_jax.env.thoughts import without_thoughts
from finemem_jax.types import Answerer, AnswerRequest, Chat, Messages, Reply, pass_on

PROMPTS = "finemem_jax.prompts"

INSTRUCTIONS = """\
You answer a question from what an assistant's memory returned for it. The items come best match first; some may be \
beside the point. Use nothing but the items. Reply with the answer alone, as short as the question allows. If the \
items do not hold the answer, reply: unknown"""


CITING = """\
Then, on a line of its own, write Used: and the numbers of the items that your answer stands in, as in Used: 1, 3"""

_USED = "used:"


def answer_messages(request: AnswerRequest, prompt: str = "") -> Messages:
    """The conversation that asks one question. prompt: the file in prompts/ that has the words; "" = ours."""
    if prompt:
        say = resolve(PROMPTS, prompt).answer_messages
        system, user = say(request.question, [item.text for item in request.items], request.query_prompt)
        return ({"role": "system", "content": system}, {"role": "user", "content": user})
    instructions = f"{INSTRUCTIONS}\n{CITING}" if request.cites else INSTRUCTIONS
    system = f"{instructions}\n\n{request.query_prompt}" if request.query_prompt else instructions
    items = "\n".join(f"{i}. {item.text}" for i, item in enumerate(request.items, 1)) or "(nothing was found)"
    user = f"Memory:\n{items}\n\nQuestion: {request.question}"
    return ({"role": "system", "content": system}, {"role": "user", "content": user})


class ModelAnswerer(Answerer):
    """Answers with a frozen chat model; identical (question, items) pairs are asked once."""

    def __init__(self, chat: Chat, prices: tuple[float, float] = (0.0, 0.0), prompt: str = ""):
        """prices: money per million prompt and completion tokens. prompt: as in `answer_messages`."""
        self.chat = chat
        self._prices, self._prompt = prices, prompt
        if prompt and not hasattr(resolve(PROMPTS, prompt), "answer_messages"):
            raise UserError(f"config.answerer.prompt={prompt}: prompts/{prompt}.py has no answering turn")

    def submit(self, requests: Sequence[AnswerRequest]) -> list[Future[Reply]]:
        asked = self.chat.submit([answer_messages(request, self._prompt) for request in requests])
        return [_then_read(future, request, self._prompt) for future, request in zip(asked, requests, strict=True)]

    def settle(self) -> None:
        self.chat.settle()

    def spent(self) -> dict[str, float]:
        if not isinstance(self.chat, AskedOnce):
            return {}
        chat = self.chat
        cost = (chat.prompt_tokens * self._prices[0] + chat.completion_tokens * self._prices[1]) / 1e6
        return {
            "calls": chat.replies,
            "from_cache": chat.hits,
            "missing": chat.missing,
            "prompt_tokens": chat.prompt_tokens,
            "completion_tokens": chat.completion_tokens,
            "cost": cost,
        }


def open_endpoint(cfg: AnswererConfig) -> AskedOnce:
    """The chat model behind `cfg.url`, each conversation asked once. Raises UserError on settings that cannot work.

    `open_endpoint(cfg).submit(conversations)` gives a future `Reply` per conversation; `.chat.traffic` says what went
    over the wire, `.hits` what did not have to."""
    http = HttpChat(cfg)
    return AskedOnce(http, http.identity, cfg.cache, cfg.max_cache_bytes)


def _then_read(asked: Future[Reply], request: AnswerRequest, prompt: str) -> Future[Reply]:
    def read(reply: Reply) -> Reply:
        if reply.text is None or reply.problem:  # cut off before it answered: that says nothing of the memory
            return replace(reply, text=None)
        text = without_thoughts(reply.text).strip()
        if prompt:
            return replace(reply, text=getattr(resolve(PROMPTS, prompt), "read_answer", str)(text).strip())
        text, cited = without_citations(text, len(request.items)) if request.cites else (text, None)
        return replace(reply, text=text, cited=cited)

    future: Future[Reply] = Future()
    pass_on(asked, future, read)
    return future


def without_citations(text: str, items: int) -> tuple[str, tuple[int, ...]]:
    """The answer without its last line that begins with "Used:", and the places, from 0, of the items named there.

    Numbers of no item are passed over: "Orlov\\nUsed: 2, 9" of three items is ("Orlov", (1,)).
    """
    lines = text.splitlines()
    found = [i for i, line in enumerate(lines) if line.strip().lower().startswith(_USED)]
    if not found:
        return text, ()
    said = lines.pop(found[-1]).strip()[len(_USED) :]
    numbers = [word for word in "".join(c if c in "0123456789" else " " for c in said).split() if len(word) < 6]
    places = sorted({int(word) - 1 for word in numbers if 0 < int(word) <= items})
    return "\n".join(lines).strip(), tuple(places)
