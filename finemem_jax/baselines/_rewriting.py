"""Baselines that carry one text from chunk to chunk and overwrite it: `memagent` and `mem1`.

Both ask a model to read the text so far and the next chunk and to write the text anew; nothing else of the stream
survives. `memagent` is told what the memory is for (as MemAgent gives its problem); `mem1` is not, and thinks aloud
before it writes its state (as MEM1's internal state). Here any model can be put to it; they share the idea with the
published systems, not the trained weights.
"""

from __future__ import annotations

from collections.abc import Callable

from finemem_jax.baselines._scripted import insert, update
from finemem_jax.config import UserError
from finemem_jax.env.environment import (
    Ask,
    Asked,
    Environment,
    Game,
    Play,
    apply,
    ask_questions,
    decode,
    finisher,
    naming,
    taken,
)
from finemem_jax.env.thoughts import without_thoughts
from finemem_jax.types import Episode, Messages, Turn

_MEMAGENT = """\
You keep a memory while you read a long text piece by piece. You see the task, your memory so far and the next piece. \
Write the new memory: keep what the task may need from the old one, add what the piece brings to it. It replaces the \
old memory as a whole, so what you leave out is lost. Write the memory alone."""

_MEM1 = """\
You read a long text piece by piece and remember it only through a state that you rewrite. You see your state and the \
next piece. First think about what matters, then write the new state between <state> and </state>: one short paragraph \
with everything of the old state and of the piece that may be asked for later."""

_TASK = "Questions about any detail of the text will be asked after its end, and answered from the memory alone."


def rewriting(name: str) -> Play:
    """The coroutine of the baseline `name`, to be played in the place of `environment.play`."""
    converse = {"memagent": _memagent, "mem1": _mem1}[name]

    def start(env: Environment, episode: Episode, asked: Asked, ask: Ask, *, group: int = 0, sample: int = 0) -> Game:
        return _play(converse, env, episode, asked, ask, group, sample)

    return start


def _memagent(state: str, chunk: str, task: str) -> Messages:
    user = f"Task: {task or _TASK}\n\nMemory:\n{state or '(empty)'}\n\nNext piece:\n{chunk}"
    return ({"role": "system", "content": _MEMAGENT}, {"role": "user", "content": user})


def _mem1(state: str, chunk: str, task: str) -> Messages:
    user = f"<state>{state}</state>\n\nNext piece:\n{chunk}"
    return ({"role": "system", "content": _MEM1}, {"role": "user", "content": user})


def _play(
    converse: Callable[[str, str, str], Messages],
    env: Environment,
    episode: Episode,
    asked: Asked,
    ask: Ask,
    group: int,
    sample: int,
) -> Game:
    memory, state, steps, pending = env.empty_memory(), "", [], []
    for chunk, questions in zip(episode.chunks, asked.by_chunk, strict=True):
        messages = converse(state, chunk.text, episode.query_prompt)
        with naming(episode, f"chunk {chunk.index}"):
            tokens = _render(env, messages)
        turn = Turn(len(steps), tokens, memory, memory.items, messages, chunk=chunk.index)
        completion = yield turn
        text = decode(env.tokenizer, completion)
        state = _read(text) or state  # who writes nothing has changed nothing
        written = ()
        if state:
            written = (update(memory.items[0], state) if memory.items else insert(state),)
        memory, outcomes = apply(memory, written, turn.index, env.memory, memory.items)
        steps.append(taken(turn, completion, text, written, outcomes, memory))
        if questions:
            pending.append(ask_questions(env, episode, memory, questions, ask, chunk.index))
    pending.append(ask_questions(env, episode, memory, asked.final, ask, None))
    return finisher(episode, steps, pending, group, sample)


def _render(env: Environment, messages: Messages) -> tuple[int, ...]:
    tokens = env.tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        add_generation_prompt=True,
        enable_thinking=env.prompt.thinking,
        tokenize=True,
        return_dict=False,
    )
    if len(tokens) > env.prompt.max_prompt_tokens:
        raise UserError(
            f"a chunk and the text carried along make a prompt of {len(tokens)} tokens, more than "
            f"config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens}: raise it, or build shorter chunks"
        )
    return tuple(tokens)


def _read(text: str) -> str:
    """The new text: what stands in <state>, or all that follows the thinking."""
    text = without_thoughts(text)
    _, tag, state = text.partition("<state>")
    return (state.partition("</state>")[0] if tag else text).strip()
