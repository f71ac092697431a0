"""The questions of one training step over HTTP: asked while the episodes go on, each once.

The paper's step asks about 16,000 (2,700 sequences x 5, and 256 rollouts x 11); `pytest -m slow -s
tests/env/test_answering.py` asks so many and prints what it took.
"""

from __future__ import annotations

import random
import resource
import time
from dataclasses import replace

import pytest

from finemem_jax.answerers._model import ModelAnswerer, open_endpoint
from finemem_jax.config import AnswererConfig
from finemem_jax.env.environment import Asked, play
from finemem_jax.types import Chunk, Completion, Episode, Question
from tests.fake_server import FakeServer

SAMPLES = 8
CONCURRENCY = 32


def episodes(count: int, chunks: int) -> list[tuple[Episode, Asked]]:
    """Episodes of made-up facts, 5 questions on each chunk and 11 at the end."""
    rng = random.Random(0)
    found = []
    for e in range(count):
        facts = [[f"person{e}x{t}x{i} likes thing{rng.randrange(10**6)}" for i in range(5)] for t in range(chunks)]
        asked = [tuple(Question(f"what does {f.split()[0]} like?", (f.split()[2],)) for f in day) for day in facts]
        final = tuple(asked[rng.randrange(chunks)][rng.randrange(5)] for _ in range(11))
        final = tuple(replace(q, text=f"{q.text} ({i})") for i, q in enumerate(final))  # eleven different ones
        stream = tuple(Chunk("\n".join(day), t, own) for t, (day, own) in enumerate(zip(facts, asked, strict=True)))
        found.append((Episode(f"e{e}", "made up", stream, final), Asked(tuple(asked), final)))
    return found


def written(env, episode: Episode, sample: int, t: int) -> Completion:
    """What a sample writes: the day's facts in its own words, which two pairs of the eight samples share."""
    facts = [f"{fact}, as {sample % 6} says" for fact in episode.chunks[t].text.splitlines()]
    calls = [
        f'<tool_call>\n{{"name": "memory_insert", "arguments": {{"content": "{f}"}}}}\n</tool_call>' for f in facts
    ]
    tokens = tuple(env.tokenizer.encode("\n".join(calls), add_special_tokens=False))
    return Completion((*tokens, env.tokenizer.eos_token_id), (0.0,) * (len(tokens) + 1), "stop")


def one_step(env, cache: str, groups: int, chunks: int) -> dict[str, float]:
    """Plays `groups` x SAMPLES episodes side by side, as the engine does, and checks what reached the server.

    A day's decoding lasts until the server has seen the questions of the day before, as it does where the server keeps
    up."""
    sent: list[tuple[str, ...]] = []  # every request, in the order in which the episodes made them
    with FakeServer() as server:
        server.reply = lambda question: time.sleep(0.002) or "something"
        cfg = AnswererConfig(url=server.url, model="m", concurrency=CONCURRENCY, cache=cache)
        answerer = ModelAnswerer(open_endpoint(cfg))

        def ask(requests):
            sent.extend((request.question, *(item.text for item in request.items)) for request in requests)
            return answerer.submit(requests)

        made = [(e, a, sample) for sample in range(SAMPLES) for e, a in episodes(groups, chunks)]
        games = [play(env, episode, asked, ask, sample=sample) for episode, asked, sample in made]
        memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        for game in games:
            next(game)
        finishes, behind = [], []
        for t in range(chunks):
            for game, (episode, _, sample) in zip(games, made, strict=True):
                try:
                    game.send(written(env, episode, sample, t))
                except StopIteration as end:
                    finishes.append(end.value)
            if t == chunks - 1:
                break
            behind.append(len(set(sent)) - len(server.seen))
            while len(server.seen) < len(set(sent)):
                assert time.monotonic() < started + 600, (
                    "the questions of a day are not asked while the episode goes on"
                )
                time.sleep(0.005)
        decoded = time.monotonic()
        rollouts = [finish() for finish in finishes]
        ended = time.monotonic()
        assert len(server.seen) == len(set(sent)) and server.most_at_once <= CONCURRENCY
        answers = [answer for rollout in rollouts for answer in rollout.answers]
        assert len(answers) == len(sent) and all(answer.text == "something" for answer in answers)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory

        again = ModelAnswerer(open_endpoint(cfg))
        for episode, asked, sample in made:
            game = play(env, episode, asked, again.submit, sample=sample)
            next(game)
            with pytest.raises(StopIteration) as end:
                for t in range(chunks):
                    game.send(written(env, episode, sample, t))
            end.value.value()
        assert len(server.seen) == len(set(sent)) and again.spent()["calls"] == 0
    return {
        "questions": len(sent),
        "calls": len(set(sent)),
        "seconds": ended - started,
        "seconds after the last token": ended - decoded,
        "most waiting at the end of a day": max(behind, default=0),
        "MB more": grown / 1024,
    }


def test_a_step_asks_each_question_once_while_the_episodes_go_on(env, tmp_path):
    found = one_step(env, str(tmp_path / "answers.sqlite"), groups=2, chunks=4)
    assert found["questions"] == 2 * SAMPLES * (4 * 5 + 11) and found["calls"] == 0.75 * found["questions"]


@pytest.mark.slow
def test_the_papers_step_of_sixteen_thousand_questions(env, tmp_path):
    found = one_step(env, str(tmp_path / "answers.sqlite"), groups=32, chunks=11)
    print({name: round(value, 2) for name, value in found.items()})
    assert found["questions"] == 256 * (11 * 5 + 11) > 16_000 and found["calls"] == 0.75 * found["questions"]
    assert found["seconds after the last token"] < 0.5 * found["seconds"]
    assert found["MB more"] < 500
