"""Episodes played by a chat model behind a server: the policy is whatever answers there."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from finemem_jax.env import prompts
from finemem_jax.env.environment import Asked, Environment, Game
from finemem_jax.types import Answer, Chat, Completion, Episode, Messages, Reply, Rollout, Turn


@dataclass(slots=True)
class _Player:
    episode: Episode
    asked: Asked
    game: Game


def play_by_chat(
    chat: Chat, env: Environment, games: Sequence[tuple[Episode, Asked, Game]]
) -> list[Callable[[], Rollout]]:
    """Plays all games at once, each turn as soon as the reply to the one before is there; how to finish each, in order.

    One thread drives them: tokenizers are not safe to share. A game whose turn gets no reply ends there, with all its
    answers missing: a server's failure is not the policy's.
    """
    finishes: list[Callable[[], Rollout] | None] = [None] * len(games)
    players = [_Player(*game) for game in games]
    arrived: queue.SimpleQueue[tuple[int, Future[Reply]]] = queue.SimpleQueue()

    def ask(number: int, turn: Turn) -> None:
        (future,) = chat.submit([_messages(env, players[number].episode, turn)])
        future.add_done_callback(lambda done: arrived.put((number, done)))

    for number, player in enumerate(players):
        ask(number, next(player.game))
    while None in finishes:
        number, done = arrived.get()
        player, reply = players[number], done.result()
        if reply.text is None:
            player.game.close()
            finishes[number] = _failed(player)
            continue
        try:
            ask(number, player.game.send(_completion(env, reply.text)))
        except StopIteration as end:
            finishes[number] = end.value
    return finishes  # type: ignore[return-value]  # the loop ends when all of them are set


def _messages(env: Environment, episode: Episode, turn: Turn) -> Messages:
    if turn.messages:
        return turn.messages
    chunk = episode.chunks[turn.chunk].text
    return prompts.conversation(env.specs, chunk, turn.visible, env.prompt, max_operations=env.memory.max_operations)


def _completion(env: Environment, text: str) -> Completion:
    tokens = (*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id)
    return Completion(tokens, (0.0,) * len(tokens), "stop")


def _failed(player: _Player) -> Callable[[], Rollout]:
    answers = tuple(Answer(question, (), "", None) for question in player.asked.final)
    return lambda: Rollout(player.episode, 0, 0, (), answers)
