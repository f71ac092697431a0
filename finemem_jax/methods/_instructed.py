"""What memory systems that are made of calls to a chat model share: a turn with messages of its own, and how JSON is
read from its reply.

Such a system writes with calls of its own instead of tools. What it says becomes operations on a flat memory, so that
every measure reads it as it reads a policy; a reply that cannot be read is a malformed operation, never silence.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from finemem_jax.config import UserError, resolve
from finemem_jax.env import lenient_json, prompts, thoughts
from finemem_jax.env.answering import answer_turns
from finemem_jax.env.environment import (
    METHODS,
    Ask,
    Asked,
    Environment,
    Game,
    apply,
    ask_questions,
    decode,
    finisher,
    naming,
    retriever,
    taken,
)
from finemem_jax.env.retrieval import open_index
from finemem_jax.types import (
    EXTRACT,
    WRITE,
    Answer,
    Chunk,
    Completion,
    Episode,
    Memory,
    MemoryItem,
    Messages,
    Operation,
    Retrieved,
    Step,
    Turn,
)

SKIP = Operation("memory_skip")
Find = Callable[[Memory], Callable[[str], tuple[Retrieved, ...]]]
Write = Callable[[Episode, Turn], Sequence[Operation]]


class Talk:
    """The turns of one rollout so far, and its memory as they left it."""

    def __init__(self, env: Environment, episode: Episode):
        self.env, self.episode = env, episode
        self.memory: Memory = env.empty_memory()
        self.steps: list[Step] = []

    def say(self, chunk: Chunk, messages: Messages, role: str = EXTRACT) -> Generator[Turn, Completion, str]:
        """One turn that reads these messages; its reply without thoughts. `write` follows where it writes."""
        env = self.env
        told = [dict(message) for message in messages]
        tokens = prompts.apply_template(env.tokenizer, told, (), env.prompt, tokenize=True)
        assert not isinstance(tokens, str)
        if len(tokens) > env.prompt.max_prompt_tokens:
            with naming(self.episode, f"chunk {chunk.index}"):
                raise UserError(
                    f"config.method.name={env.method.name} makes a prompt of {len(tokens)} tokens, more than "
                    f"config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens}: raise it, or cut shorter chunks"
                )
        turn = Turn(len(self.steps), tuple(tokens), self.memory, self.memory.items, messages, role, chunk.index)
        completion = yield turn
        said = decode(env.tokenizer, completion)
        is_thinking = prompts.opens_thought(env.tokenizer, turn.prompt_tokens)
        text = thoughts.without_thoughts(thoughts.OPEN + said if is_thinking else said).strip()
        self.steps.append(taken(turn, completion, text, (), (), self.memory))
        return text

    def write(self, operations: Sequence[Operation]) -> tuple[str, ...]:
        """Applies operations as what came of the last turn; the id of the item that each wrote or removed."""
        last = self.steps.pop()
        wanted = tuple(operations) or (SKIP,)
        after, outcomes = apply(self.memory, wanted, last.index, self.env.memory, self.memory.items)
        turn = Turn(last.index, last.prompt_tokens, self.memory, (), (), WRITE, last.chunk)
        self.steps.append(taken(turn, last.completion, last.text, wanted, outcomes, after))
        self.memory = after
        return tuple(outcome.item for outcome in outcomes) if operations else ()


Read = Callable[[Talk, Chunk], Generator[Turn, Completion, None]]


def play(
    read: Read,
    env: Environment,
    episode: Episode,
    asked: Asked,
    ask: Ask,
    *,
    group: int = 0,
    sample: int = 0,
    write: Write | None = None,
    find: Callable[[Talk], Callable[[str], tuple[Retrieved, ...]]] | None = None,
) -> Game:
    """A rollout in which `read` takes every chunk in, and the questions are answered from what `find` finds."""
    if write is not None:
        streaming = resolve(METHODS, "stream").play(env, episode, asked, ask, group=group, sample=sample, write=write)
        return (yield from streaming)
    talk, pending = Talk(env, episode), []

    def answers(questions, chunk: int | None) -> Generator[Turn, Completion, Callable[[], list[Answer]]]:
        if chunk is None and env.method.answers == "policy":
            first = asked.final.index(questions[0]) if questions else 0
            return (yield from answer_turns(env, episode, talk.memory, questions, talk.steps, first))
        return ask_questions(
            env, episode, talk.memory, questions, ask, chunk, find=find(talk) if find and questions else None
        )

    for chunk, questions in zip(episode.chunks, asked.by_chunk, strict=True):
        yield from read(talk, chunk)
        if questions:
            pending.append((yield from answers(questions, chunk.index)))
        if asked.due(chunk.index):
            pending.append((yield from answers(asked.due(chunk.index), None)))
    pending.append((yield from answers(asked.due(None), None)))
    return finisher(episode, talk.steps, pending, group, sample)


def nearest(talk: Talk, query: str, count: int) -> list[MemoryItem]:
    """The items that fit a text best, by the config's retrieval."""
    items = talk.memory.items
    found = open_index([item.text for item in items], talk.env.retrieval).search(query, count)
    return [items[place] for place, _ in found]


def searched(talk: Talk) -> Callable[[str], tuple[Retrieved, ...]]:
    """What an answerer is given without further ado."""
    return retriever(talk.memory.items, talk.env)


def object_in(text: str) -> Mapping[str, Any] | None:
    """The JSON object of a reply, from its first brace to its last, fenced or not; None where it is none."""
    start, end = text.find("{"), text.rfind("}")
    try:
        return lenient_json.load_object(text[start : end + 1]) if 0 <= start < end else None
    except lenient_json.Malformed:
        return None


def texts(value: object) -> list[str]:
    """The texts of a list that a model wrote; what is none is passed over."""
    entries = value if isinstance(value, list) else [value]
    return [entry.strip() for entry in entries if isinstance(entry, str) and entry.strip()]


def malformed(reply: str) -> Operation:
    """What stands for a reply that cannot be read."""
    return Operation("memory_insert", error=f"malformed: no JSON object: {reply[:40]!r}")


def chat(instructions: str, **parts: str) -> Messages:
    """A conversation: the instructions, then each part under its name."""
    user = "\n\n".join(f"{name.replace('_', ' ').capitalize()}:\n{text or '(none)'}" for name, text in parts.items())
    return ({"role": "system", "content": instructions}, {"role": "user", "content": user})


def numbered(items: Sequence[MemoryItem]) -> str:
    """Items under small numbers, which models copy better than ids."""
    return "\n".join(f"{number}: {item.text}" for number, item in enumerate(items))


def last_lines(chunk: Chunk | None, count: int) -> str:
    """The end of what was said before."""
    return "\n".join(chunk.text.splitlines()[-count:]) if chunk is not None else ""
