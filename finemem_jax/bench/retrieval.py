"""BM25 over a long memory beside rank_bm25, on the same texts and questions in one run: milliseconds per question.

Both split texts and questions into the same words, build one index, and give the k best items of every question; the
figures are CPU time of this process, the best of some repeats, in milliseconds, building included. `cold`: no text was
seen before; `warm`: the texts were indexed before, as after the earlier steps of an episode. `episode`: one that
grows to the same number of items, with an index and five questions at every step.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finemem_jax.config import UserError, resolve
from finemem_jax.env import retrieval

_K = 5
_QUESTIONS_PER_STEP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus", default="", help="Memalpha-format file: its lines are the items; '' = made-up words"
    )
    parser.add_argument("--items", type=int, default=5000, help="(default: %(default)s)")
    parser.add_argument("--questions", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of the episode (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    try:
        import rank_bm25
    except ImportError as error:
        raise UserError("this benchmark needs rank_bm25: pip install 'finemem_jax[test]'") from error
    texts, questions = _of_corpus(args.corpus) if args.corpus else _made_up(args.items, args.questions)
    texts, questions = texts[: args.items], questions[: args.questions]
    if len(texts) < args.items or len(questions) < args.questions:
        raise UserError(f"--corpus={args.corpus}: {len(texts)} different lines and {len(questions)} questions there")

    def search(build: Callable[[], Any], ask: Callable[[Any, str], object]) -> tuple[float, float]:
        start = time.process_time()
        index = build()
        built = time.process_time()
        for question in questions:
            ask(index, question)
        return built - start, time.process_time() - built

    def ours() -> tuple[float, float]:
        return search(lambda: retrieval.BM25(texts), lambda index, question: index.search(question, _K))

    def ours_cold() -> tuple[float, float]:
        retrieval.forget()
        return ours()

    def theirs() -> tuple[float, float]:
        def ask(index: Any, question: str) -> object:
            return np.argsort(-index.get_scores(retrieval.split_words(question)), kind="stable")[:_K]

        return search(lambda: rank_bm25.BM25Okapi([retrieval.split_words(text) for text in texts]), ask)

    # one of each after the other, so that a machine that slows down slows all of them
    measured = [(ours_cold(), ours(), theirs()) for _ in range(args.repeats)]
    cold, warm, other = (_best(times, len(questions)) for times in zip(*measured, strict=True))
    return {
        "items": len(texts),
        "questions": len(questions),
        "words_per_item": float(np.mean([len(retrieval.split_words(text)) for text in texts])),
        "cold": cold,
        "warm": warm,
        "rank_bm25": other,
        "times_faster_cold": other["per_question_ms"] / cold["per_question_ms"],
        "times_faster_warm": other["per_question_ms"] / warm["per_question_ms"],
        "episode": _episode(texts, questions, args.steps),
    }


def _best(times: Sequence[tuple[float, float]], questions: int) -> dict[str, float]:
    build, ask = min(times, key=sum)
    return {"build_ms": 1e3 * build, "ask_ms": 1e3 * ask, "per_question_ms": 1e3 * (build + ask) / questions}


def _episode(texts: Sequence[str], questions: Sequence[str], steps: int) -> dict[str, float]:
    """Seconds of an episode in which every step inserts its share of the items, and every ninth deletes one."""
    rng = random.Random(0)
    retrieval.forget()
    memory: list[str] = []
    start = time.process_time()
    for step in range(steps):
        memory += texts[len(texts) * step // steps : len(texts) * (step + 1) // steps]
        if memory and step % 9 == 0:
            del memory[rng.randrange(len(memory))]
        index = retrieval.BM25(memory)
        for question in rng.sample(questions, min(_QUESTIONS_PER_STEP, len(questions))):
            index.search(question, _K)
    return {"steps": steps, "items_at_the_end": len(memory), "seconds": time.process_time() - start}


def _of_corpus(path: str) -> tuple[list[str], list[str]]:
    """Different lines and questions of a corpus, in the order in which they stand there."""
    lines: dict[str, None] = {}
    asked: dict[str, None] = {}
    for episode in resolve("finemem_jax.benchmarks", "memalpha").read_file(path):
        lines.update((line, None) for chunk in episode.chunks for line in chunk.text.splitlines() if line.strip())
        asked.update((question.text, None) for question in episode.questions)
    return list(lines), list(asked)


def _made_up(items: int, questions: int) -> tuple[list[str], list[str]]:
    """Texts of 12 words, as frequent as words of a language are, and questions of 8 words of one of them."""
    rng = random.Random(0)
    texts = [" ".join(f"w{min(int(rng.paretovariate(0.7)), 4000)}" for _ in range(12)) for _ in range(items)]
    return texts, [" ".join(rng.choice(texts).split()[:8]) for _ in range(questions)]
