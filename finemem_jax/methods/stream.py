"""A stream of chunks: a writing turn for each, then the questions (Fine-Mem, Mem-α, MemAgent).

Who answers is `config.method.answers`: the frozen answerer, from what is retrieved of memory; or the policy itself, in
an answering turn for every final question, so that the answer has a gradient too (MemAgent, Memory-R1).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from finemem_jax.env import operations
from finemem_jax.env.answering import answer_turns, expert_answer
from finemem_jax.env.environment import (
    Ask,
    Asked,
    Environment,
    Game,
    apply,
    ask_questions,
    finisher,
    naming,
    probe,
    read,
    seen_question,
    taken,
    turn_prompt,
    view,
)
from finemem_jax.env.judging import judge_writes
from finemem_jax.types import WRITE, Answer, Chunk, Completion, Episode, Memory, NotKept, Operation, Step, Turn

PROBES = True  # it asks what `asked.probing` says


def play(
    env: Environment,
    episode: Episode,
    asked: Asked,
    ask: Ask,
    *,
    group: int = 0,
    sample: int = 0,
    write: Callable[[Episode, Turn], Sequence[Operation]] | None = None,
) -> Game:
    """One rollout of an episode."""
    memory, steps, pending, probing, judging = env.first_memory(episode), [], [], [], []
    for chunk, questions in zip(episode.chunks, asked.by_chunk, strict=True):
        step = yield from write_turn(env, episode, chunk, memory, len(steps), asked, write)
        before, memory = memory, step.memory_after
        if steps and write is not None and not env.keeps_memories and not _is_asked(asked, episode, steps[-1]):
            steps[-1] = replace(steps[-1], memory_after=NotKept())
        steps.append(step)
        if asked.probing.judged_by:
            judging.append(judge_writes(env, step, asked.probing.judged_by))
        if questions:
            pending.append(ask_questions(env, episode, memory, questions, ask, chunk.index))
            if asked.probing.before and step.index:
                probing.append(probe(env, episode, before, questions, ask, chunk.index, step.index, after=False))
        if asked.probing.along and chunk is not episode.chunks[-1]:
            probing.append(probe(env, episode, memory, asked.final, ask, None, step.index))
        if asked.due(chunk.index):
            pending.append((yield from _answers(env, episode, memory, asked, chunk.index, ask, steps, write)))
    pending.append((yield from _answers(env, episode, memory, asked, None, ask, steps, write)))
    return finisher(episode, steps, pending, group, sample, probing, judging)


def _is_asked(asked: Asked, episode: Episode, step: Step) -> bool:
    """Whether somebody may look at the memory after that turn."""
    return bool(asked.due(step.chunk)) or episode.chunks[step.chunk or 0].points is not None


def _answers(
    env: Environment,
    episode: Episode,
    memory: Memory,
    asked: Asked,
    after: int | None,
    ask: Ask,
    steps: list[Step],
    write: Callable[[Episode, Turn], Sequence[Operation]] | None,
) -> Generator[Turn, Completion, Callable[[], list[Answer]]]:
    """Who answers, answers the questions that are due behind that chunk (None = at the end)."""
    due = asked.due(after)
    if env.method.answers == "policy" and write is None:
        first = asked.final.index(due[0]) if due else 0
        return (yield from answer_turns(env, episode, memory, due, steps, first))
    return ask_questions(env, episode, memory, due, ask, None, asked.probing)


def demonstrate(
    env: Environment, episode: Episode, asked: Asked, write: Callable[[Episode, Turn], Sequence[Operation]]
) -> Callable[[Turn], str]:
    """The expert writes what it writes, and answers what its memory says."""

    def speak(turn: Turn) -> str:
        if turn.role == WRITE:
            return operations.emit(write(episode, turn), env.prompt.codec, env.specs) or _NO_CALL
        assert turn.question is not None
        return expert_answer(env, asked.final[turn.question], [item.text for item in turn.memory.items])

    return speak


_NO_CALL = "Done."


def write_turn(
    env: Environment,
    episode: Episode,
    chunk: Chunk,
    memory: Memory,
    index: int,
    asked: Asked,
    write: Callable[[Episode, Turn], Sequence[Operation]] | None = None,
    *,
    fast: int = 0,
) -> Generator[Turn, Completion, Step]:
    """The writing turn number `index` on its own, from any memory and under any fast weights: yields the turn, returns
    what came of it."""
    if write is None:
        shown = view(memory, chunk.text, env.memory.view, env)
        with naming(episode, f"chunk {chunk.index}"):
            tokens, visible = turn_prompt(env, chunk.text, shown, seen_question(env, asked.final), memory.notice())
        turn = Turn(index, tokens, memory, visible, chunk=chunk.index, fast=fast)
        completion = yield turn
        text, written = read(env, turn, completion)
    else:
        turn = Turn(index, (), memory, memory.items, chunk=chunk.index)
        completion = Completion((), (), "stop")
        written = tuple(write(episode, turn))
        text = operations.emit(written, env.prompt.codec, env.specs)  # for people to read
    after, outcomes = apply(memory, written, turn.index, env.memory, turn.visible)
    return taken(turn, completion, text, written, outcomes, after)
