"""Memory in fast weights (TMEM, arXiv 2606.04536): read until the context is full, say what is to be learned, learn it
by gradient steps inside the episode, forget the context, go on under the new weights; at the end, answer under them.

A text memory may stand beside it (`config.memory.name`, none for none): then every chunk has a writing turn as in
stream, and the answers see both. What is written into weights is dropped with the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from finemem_jax.config import Config, UserError, resolve
from finemem_jax.env import learning
from finemem_jax.env.answering import answer_turns, expert_answer, recall_turns
from finemem_jax.env.environment import (
    METHODS,
    Ask,
    Asked,
    Environment,
    Game,
    ask_questions,
    finisher,
    naming,
    seen_question,
    taken,
)
from finemem_jax.types import (
    ANSWER,
    EXTRACT,
    Chunk,
    Episode,
    FastWrite,
    Learn,
    Memory,
    Operation,
    Recall,
    Rollout,
    Step,
    Turn,
)

WRITES_FAST = True


def check(cfg: Config) -> None:
    """Raises UserError where the config leaves the method without what it needs."""
    if not cfg.method.fast.rank:
        raise UserError(
            "config.method.name=parametric writes fast weights, and config.method.fast.rank=0 is none: set it (the "
            "paper's is 6)"
        )
    if cfg.method.answers != "policy":
        raise UserError(
            f"config.method.answers={cfg.method.answers}: what config.method.name=parametric has learned is in the "
            "policy's weights, which no other answerer has; set it to policy"
        )


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
    memory, fast = env.empty_memory(), 0
    steps: list[Step] = []
    pending, writes = [], []
    for context in learning.contexts(episode, env):
        for chunk in context if env.specs else ():
            step = yield from resolve(METHODS, "stream").write_turn(
                env, episode, chunk, memory, len(steps), asked, write, fast=fast
            )
            steps.append(step)
            memory = step.memory_after
            if questions := asked.by_chunk[chunk.index]:
                pending.append(ask_questions(env, episode, memory, questions, ask, chunk.index))
        if write is None:  # a script has no weights
            written = yield from _write(env, episode, asked, context, memory, fast, steps, len(writes))
            if written is not None:
                fast, of_write = written
                writes.append(of_write)
        for after in (*(chunk.index for chunk in context), *((None,) if context[-1] is episode.chunks[-1] else ())):
            if due := asked.due(after):
                if env.method.answers == "policy" and write is None:
                    first = asked.final.index(due[0])
                    pending.append((yield from answer_turns(env, episode, memory, due, steps, first, fast=fast)))
                else:
                    pending.append(ask_questions(env, episode, memory, due, ask, None, asked.probing))
    finish_rollout = finisher(episode, steps, pending, group, sample)

    def finish() -> Rollout:
        return replace(finish_rollout(), writes=tuple(record() for record in writes))

    return finish


def demonstrate(
    env: Environment, episode: Episode, asked: Asked, write: Callable[[Episode, Turn], Sequence[Operation]]
) -> Callable[[Turn], str]:
    """The expert writes the questions about the chunks with the answers that stand in them, and answers as if it knew
    the whole text. What the answer is, is not to be seen in the prompt: what is taught is how one looks."""
    of_stream = resolve(METHODS, "stream").demonstrate(env, episode, asked, write)
    by_last = {context[-1].index: context for context in learning.contexts(episode, env)}

    def speak(turn: Turn) -> str:
        if turn.role == EXTRACT and turn.chunk is not None:
            return learning.gold(env, by_last[turn.chunk])
        if turn.role == ANSWER:
            assert turn.question is not None
            return expert_answer(env, asked.final[turn.question], [chunk.text for chunk in episode.chunks])
        return of_stream(turn)

    return speak


def _write(
    env: Environment,
    episode: Episode,
    asked: Asked,
    context: Sequence[Chunk],
    memory: Memory,
    fast: int,
    steps: list[Step],
    number: int,
) -> Generator[Turn | Learn, Any, tuple[int, Callable[[], FastWrite]] | None]:
    """What the context leaves in weights: the number of those after it, and what waits for its record; None where
    nothing was learned. The turn that said it is appended to `steps`."""
    if env.method.fast.supervision == "text":
        turn_index, lessons = None, learning.text_lessons(env, "\n\n".join(chunk.text for chunk in context))
    else:
        with naming(episode, f"chunk {context[-1].index}"):
            seen = seen_question(env, asked.final)
            turn = learning.extract_turn(env, context, len(steps), memory, fast, seen)
        completion = yield turn
        text, said, outcomes, lessons = learning.read(env, turn, completion, episode.query_prompt)
        steps.append(taken(turn, completion, text, said, outcomes, memory))
        turn_index = turn.index
    if not lessons or not env.method.fast.rank:
        return None
    probed = [question for chunk in context for question in chunk.questions][: env.method.fast.probes]
    before = yield from recall_turns(env, episode, probed, fast, 2 * number)
    written = yield Learn(lessons, fast)
    after = yield from recall_turns(env, episode, probed, written.number, 2 * number + 1)

    def finish() -> FastWrite:
        pairs = zip(probed, before, after, strict=True)
        recalls = tuple(
            Recall(q.text, was, score_was(), now, score_now()) for q, (was, score_was), (now, score_now) in pairs
        )
        return FastWrite(
            turn_index,
            tuple(chunk.index for chunk in context),
            len(lessons),
            sum(len(lesson.tokens) - lesson.start for lesson in lessons),
            written.loss_before,
            written.loss_after,
            recalls,
        )

    return written.number, finish
