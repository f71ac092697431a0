"""Episodes played by a chat model behind a server: the policy is whatever answers there."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from finemem_jax.chat.policy import PolicyServer
from finemem_jax.env import prompts, thoughts
from finemem_jax.env.environment import Asked, Environment, Game, seen_question
from finemem_jax.types import Answer, Completion, Episode, Learn, Messages, Reply, Rollout, Turn


@dataclass(slots=True)
class _Player:
    episode: Episode
    asked: Asked
    game: Game


def play_by_chat(
    server: PolicyServer, env: Environment, games: Sequence[tuple[Episode, Asked, Game]]
) -> list[Callable[[], Rollout]]:
    """Plays all games at once, each turn as soon as the reply to the one before is there; how to finish each, in order.

    One thread drives them: tokenizers are not safe to share. A game whose turn gets no reply ends there, with all its
    answers missing: a server's failure is not the policy's.
    """
    layout = prompts.find_layout(env.tokenizer, env.specs, env.prompt) if server.form else prompts.Layout()
    finishes: list[Callable[[], Rollout] | None] = [None] * len(games)
    players = [_Player(*game) for game in games]
    arrived: queue.SimpleQueue[tuple[int, Future[Reply]]] = queue.SimpleQueue()

    turns: dict[int, Turn] = {}

    def ask(number: int, turn: Turn | Learn) -> None:
        assert isinstance(turn, Turn)  # a method that writes weights is not played behind a server
        turns[number] = turn
        player = players[number]
        messages = messages_of(env, turn, player.episode, player.asked, layout)
        future = server.submit(turn.prompt_tokens, messages, turn.max_tokens)
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
            ask(number, player.game.send(completion_of(env, turns[number], reply, server.form)))
        except StopIteration as end:
            finishes[number] = end.value
    return finishes  # type: ignore[return-value]  # the loop ends when all of them are set


def messages_of(env: Environment, turn: Turn, episode: Episode, asked: Asked, layout: prompts.Layout) -> Messages:
    """A turn's prompt before the chat template."""
    if turn.messages:
        return turn.messages
    assert turn.chunk is not None  # only a turn about a chunk leaves its words to the prompt
    return prompts.conversation(
        env.specs,
        episode.chunks[turn.chunk].text,
        turn.visible,
        env.prompt,
        max_operations=env.memory.max_operations,
        question=seen_question(env, asked.final),
        notice=turn.memory.notice(),
        layout=layout,
    )


def completion_of(env: Environment, turn: Turn, reply: Reply, form: str) -> Completion:
    """The reply as a completion of ours: it was cut off if it is as long as it may be."""
    text = reply.text or ""
    tokens = env.tokenizer.encode(text, add_special_tokens=False)
    if turn.stop and (length := turn.stop.length(tokens)):  # the server was not told where to stop
        return Completion(tuple(tokens[:length]), (0.0,) * length, "string")
    most = turn.max_tokens or env.prompt.max_completion_tokens
    is_cut = max(reply.completion_tokens, len(tokens)) >= most
    is_chat = form in ("messages", "") and thoughts.CLOSE not in text and not is_cut
    if is_chat and prompts.opens_thought(env.tokenizer, turn.prompt_tokens):
        # The server kept the thought that the template opened to itself: what it says is outside of it.
        tokens = env.tokenizer.encode(f"{thoughts.CLOSE}{text}", add_special_tokens=False)
    tokens = tokens if is_cut else [*tokens, env.tokenizer.eos_token_id]
    return Completion(tuple(tokens), (0.0,) * len(tokens), "length" if is_cut else "stop")


def _failed(player: _Player) -> Callable[[], Rollout]:
    answers = tuple(Answer(question, (), "", None) for question in player.asked.final)
    return lambda: Rollout(player.episode, 0, 0, (), answers)
