"""What an expert says in the turns of a method: demonstrations in every format, for a warm start.

The method plays itself; in the policy's place the scripted expert speaks. What is said in a turn is the method's
(`demonstrate` in methods/), what is written of memory the memory's (`from_notes` in memory/) and how it is spelled the
codec's, so a new format needs no expert of its own. Where the policy answers, the expert does; a frozen answerer is not
asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from finemem_jax.baselines import _scripted as scripted
from finemem_jax.baselines._contestant import Writer
from finemem_jax.config import Config, UserError, resolve
from finemem_jax.env.answering import UNKNOWN
from finemem_jax.env.environment import MEMORY, METHODS, Asked, Environment, play, training_questions
from finemem_jax.imitation.examples import Example
from finemem_jax.types import (
    ANSWER,
    AnswerRequest,
    Completion,
    Episode,
    Learn,
    Operation,
    Reply,
    Rollout,
    Turn,
    Written,
)


def demonstrated(cfg: Config, env: Environment, episodes: Sequence[Episode]) -> list[Rollout]:
    """The expert's rollouts of the episodes, by the method of the environment. Raises UserError where it has none."""
    demonstrate = getattr(resolve(METHODS, env.method.name), "demonstrate", None)
    if demonstrate is None:
        raise UserError(
            f"config.method.name={env.method.name} demonstrates nothing (`demonstrate` in methods/): "
            "config.sft.stages=('traces',) does without it"
        )
    write = expert_writer(cfg, env)
    rollouts = []
    for episode in episodes:
        asked = _asked(cfg, env, episode)
        rollouts.append(_played(env, episode, asked, demonstrate(env, episode, asked, write)))
    return rollouts


def demonstration_examples(rollouts: Sequence[Rollout], role: str = "") -> list[Example]:
    """Every turn, with the tokens of its prompt and what the expert said; only those of a role, where one is given.

    Answers to what the expert does not know are left out: not to know is learnt at once, and then answers all."""
    unknown = {(id(r), answer.turn) for r in rollouts for answer in r.answers if answer.text == UNKNOWN}
    return [
        Example(step.prompt_tokens, step.completion.tokens)
        for rollout in rollouts
        for step in rollout.steps
        if role in ("", step.role) and not (step.role == ANSWER and (id(rollout), step.index) in unknown)
    ]


def expert_writer(cfg: Config, env: Environment) -> Writer:
    """The scripted expert of the warm start, writing notes in the tools of the configured memory."""
    memory: Any = resolve(MEMORY, env.memory.name)
    expert = scripted.expert(cfg.sft.expert, env.memory.max_operations, cfg.seed)
    if hasattr(memory, "from_notes"):
        return _in_own_tools(memory, expert, lambda text: env.count_tokens(text) <= env.memory.max_tokens)
    if not {"memory_insert", "memory_update", "memory_skip"} <= {spec.name for spec in env.specs}:
        raise UserError(
            f"config.memory.name={env.memory.name} has neither the tools of memory/flat.py, which the scripted expert "
            "writes with, nor `from_notes`: config.sft.stages=('traces',) does without it"
        )
    return expert


def _in_own_tools(memory: Any, expert: Writer, fits: Callable[[str], bool]) -> Writer:
    def write(episode: Episode, turn: Turn) -> Sequence[Operation]:
        notes = tuple(memory.notes(turn.visible))
        return memory.from_notes(expert(episode, replace(turn, visible=notes)), notes, fits)

    return write


def _asked(cfg: Config, env: Environment, episode: Episode) -> Asked:
    """The questions of a training rollout, where they are a part of what the policy reads or says."""
    is_asked = env.method.answers == "policy" or env.method.sees_question
    if not is_asked:
        return Asked(((),) * len(episode.chunks), ())
    seed = f"demonstrations {cfg.seed} {episode.id}"
    return training_questions(episode, cfg.rewards, asks_chunks=False, seed=seed)


def _played(env: Environment, episode: Episode, asked: Asked, speak: Callable[[Turn], str]) -> Rollout:
    game, written = play(env, episode, asked, _nobody), 0
    try:
        turn = next(game)
        while True:
            if isinstance(turn, Learn):  # the expert has no weights that could
                written += 1
                turn = game.send(Written(written, 0.0, 0.0))
            else:
                turn = game.send(_completion(env, turn, speak(turn)))
    except StopIteration as end:
        return end.value()


def _completion(env: Environment, turn: Turn, text: str) -> Completion:
    """The text as a policy would have sampled it: up to a stop string of the turn, else with the end of its turn."""
    tokens = tuple(env.tokenizer.encode(text, add_special_tokens=False))
    length = turn.stop.length(tokens) if turn.stop else 0
    tokens = tokens[:length] if length else (*tokens, env.tokenizer.eos_token_id)
    return Completion(tokens, (0.0,) * len(tokens), "string" if length else "stop")


def _nobody(requests: Sequence[AnswerRequest]) -> list[Future[Reply]]:
    """An answerer that is not there."""
    futures: list[Future[Reply]] = [Future() for _ in requests]
    for future in futures:
        future.set_result(Reply(None))
    return futures
