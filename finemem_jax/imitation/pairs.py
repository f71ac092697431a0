"""Exercises of a method that writes fast weights (methods/parametric.py).

Three of four teach to write pairs: the questions that the data asks about a text, with their answers, where the text
holds these. The fourth teaches how an answer looks when there is nothing in the prompt but the question. Which answer
is right cannot be known there; what it is, the fast weights have to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finemem_jax.config import UserError
from finemem_jax.env import learning, operations
from finemem_jax.env.answering import question_tokens
from finemem_jax.env.environment import Environment
from finemem_jax.imitation.examples import Example
from finemem_jax.types import Chunk, Episode, Operation, Question

ANSWERS = 0.25  # share of the exercises that are answers


def pair_example(env: Environment, episodes: Sequence[Episode], rng: np.random.Generator) -> Example:
    """One exercise, drawn from the episodes that have something to ask."""
    for _ in range(1000):
        episode = episodes[rng.integers(len(episodes))]
        contexts = list(learning.contexts(episode, env))
        context = contexts[rng.integers(len(contexts))]
        pairs = gold_pairs(context)
        if not pairs:
            continue
        end = env.tokenizer.eos_token_id
        if rng.random() < ANSWERS:
            question, reply = pairs[rng.integers(len(pairs))]
            prompt = question_tokens(env, question, episode.query_prompt)
            return Example(prompt, (*env.tokenizer.encode(reply, add_special_tokens=False), end))
        memory = env.empty_memory()
        turn = learning.extract_turn(env, context, 0, memory, 0)
        names = tuple(learning.PAIR.parameters)
        written = [Operation(learning.PAIR.name, dict(zip(names, pair, strict=True))) for pair in pairs]
        text = operations.emit(written, env.method.fast.codec, [learning.PAIR]) + "\n"
        return Example(turn.prompt_tokens, (*env.tokenizer.encode(text, add_special_tokens=False), end))
    raise UserError(
        "config.sft.stages: pairs are made of the questions about a chunk whose answer stands in it, and 1000 chunks "
        "of config.data had none"
    )


def gold_pairs(context: Sequence[Chunk]) -> list[tuple[str, str]]:
    """(question, answer) about the chunks, in the order in which the answers stand in them; of a question that is asked
    again, the last answer."""
    found: dict[str, tuple[tuple[int, int], str]] = {}
    for number, chunk in enumerate(context):
        for question in chunk.questions:
            if (place := _place(chunk, question)) is not None:
                found[question.text] = ((number, place), question.answers[0])
    return [(question, answer) for question, (_, answer) in sorted(found.items(), key=lambda item: item[1][0])]


def _place(chunk: Chunk, question: Question) -> int | None:
    """Where the answer stands in a line that shares a word of the question; None where it does not."""
    if not question.answers or "=>" in question.text:
        return None
    place = chunk.text.find(question.answers[0])
    return None if place < 0 or question.kind == "label" else place
