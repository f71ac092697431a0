"""Every reward term and the credit rule, tried on a rollout of two chunks before a run begins.

A term that a config switches on is code of the user's as often as ours. Without this its first call comes after the
first rollouts of the first step, minutes or hours after the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from finemem_jax.config import AdvantageConfig, RewardsConfig, UserError, resolve
from finemem_jax.env.environment import METHODS, Environment, all_questions, replay
from finemem_jax.env.probing import Probing, wanted
from finemem_jax.env.turns import TermFailed, advantages, compared, tabulate
from finemem_jax.types import ANSWER, ROLES, AnswerRequest, Chunk, Episode, Operation, Question, Reply, Rollout, Turn

_ASKED = Question("What colour is the boat?", ("red",), kind="fact", evidence=(0,))
_EPISODE = Episode(
    "rehearsal",
    "rehearsal",
    (Chunk("The boat is red.", 0, (_ASKED,)), Chunk("It is cold today.", 1, (_ASKED,))),
    (_ASKED, replace(_ASKED, text="What is cold?", answers=("today",))),
)


def rehearse(env: Environment, rewards: RewardsConfig, advantage: AdvantageConfig) -> None:
    """Raises UserError, one line with the plug-in's name, when a term or the credit rule cannot be used."""
    has_own_turns = getattr(resolve(METHODS, env.method.name), "OWN_TURNS", False)
    if has_own_turns and getattr(resolve("finemem_jax.credit", advantage.credit), "BY_INDEX", False):
        raise UserError(
            f"config.advantage.credit={advantage.credit} compares turns by their running number, and under "
            f"config.method.name={env.method.name} their number is the policy's choice: trajectory, instance"
        )
    group = [_rollout(env, sample, writes, wanted(rewards)) for sample, writes in enumerate((True, False))]
    try:
        turns = tabulate([group], rewards, env.count_tokens)
    except TermFailed as failed:
        raise UserError(f"{failed}, on a tiny rollout before the first step") from failed
    try:
        found = advantages(turns, rewards.weights, advantage)
        keys = compared(turns, advantage)
    except Exception as error:
        where = f"credit/{advantage.credit}.py: {type(error).__name__}: {error}"
        raise UserError(f"{where}, on a tiny rollout before the first step") from error
    if not len(found) == len(keys) == len(turns):
        raise UserError(
            f"credit/{advantage.credit}.py: {len(found)} advantages and {len(keys)} keys for {len(turns)} turns"
        )


def _rollout(env: Environment, sample: int, writes: bool, probing: Probing) -> Rollout:
    """Two writing turns, in which every tool is used or none, and a turn of each other role."""

    def write(episode: Episode, turn: Turn) -> list[Operation]:
        text = episode.chunks[turn.chunk or 0].text
        return [Operation(spec.name, spec.example(text)) for spec in env.specs if writes]

    def ask(requests: Sequence[AnswerRequest]) -> list[Future[Reply]]:
        futures: list[Future[Reply]] = [Future() for _ in requests]
        for future in futures:
            future.set_result(Reply("red"))
        return futures

    asks = replace(env, judge=None, judged_sources=())  # no judge is asked about what nobody said
    asked = replace(all_questions(_EPISODE, chunk_questions=True), probing=probing)
    rollout = replay(asks, _EPISODE, asked, ask, write)()
    last = rollout.steps[-1]
    others = [
        replace(last, index=last.index + number, role=role, chunk=None, question=0, operations=(), outcomes=())
        for number, role in enumerate((role for role in ROLES if role != last.role), start=1)
    ]
    (answering,) = [step.index for step in others if step.role == ANSWER]
    # The turn that answers gave the answer to the question it was about, as in a method whose policy answers.
    own = replace(rollout.final_answers[0], turn=answering)
    answers = tuple(own if answer is rollout.final_answers[0] else answer for answer in rollout.answers)
    return replace(rollout, sample=sample, steps=(*rollout.steps, *others), answers=answers)
