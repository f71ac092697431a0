"""An answerer without a model: deterministic, embedded, for tests, the quickstart and quick looks at a corpus.

It reads the retrieved items and takes the best one by BM25 score.

- Where that item is a labelled example (`utterance => label`, or `Sentence:` / `Label:` lines), it votes over the
  labels of all retrieved examples, each with its BM25 score.
- Where it is a longer text, it takes the line (for labels) or sentence that shares most words with the question. A
  line that carries a label gives that label; a sentence gives the longest run of its words that are neither in the
  question nor function words.

What it can do: questions whose answer stands in one sentence, beside the question's own words; classification by the
nearest labelled examples; the same answer for the same request, on any machine.

What it cannot do: reason over two items or two sentences, count, compare, infer; know that a fact has changed, unless
memory did (of an old and a new value it takes what BM25 ranks first); tell a person from a place (the longest run of
words wins, whatever was asked for); summarise; follow `query_prompt`, which it does not read; paraphrase; abstain,
save on an empty retrieval, where it answers ""; make much of scripts without spaces, which it reads by characters. Its
scores say how much of the answer memory and retrieval hold, not what a language model would do with them: compare
policies with it, never with published numbers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import regex

from finemem_jax.config import AnswererConfig
from finemem_jax.env.words import CHARACTER, SPACED, is_special, words
from finemem_jax.types import Answerer, AnswerRequest, Chat, Reply, Retrieved

_SENTENCE = re.compile(r"[^.!?。！？\n]++(?:[.!?](?=\s|$)|[。！？]|\n|$)|[^\n]++")
_WORD = re.compile(r"\w++(?:[-.,:]\w++)*+")
_SPECIAL_WORD = regex.compile(rf"(?V1){CHARACTER}|{SPACED}++(?:[-.,:]{SPACED}++)*+")
_EXAMPLE_LINES = 2  # a text with a label and more lines than this is not one example but a page
_FUNCTION_WORDS = frozenset(
    "a an the is are was were be been am do does did of in on at to for from by with as and or that this it its "
    "he she they his her their what which who whom whose when where why how now s".split()
)


class Extractive(Answerer):
    """Answers on one background thread, while the device decodes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="extractive")

    def submit(self, requests: Sequence[AnswerRequest]) -> list[Future[Reply]]:
        futures: list[Future[Reply]] = [Future() for _ in requests]

        def work() -> None:  # one task for all: a task of its own costs as much as an answer
            for request, future in zip(requests, futures, strict=True):
                try:
                    text = _answer(request)
                    future.set_result(Reply(text, cited=_used(request, text) if request.cites else None))
                except Exception as error:  # whoever waits for the answer must see it
                    future.set_exception(error)

        self._thread.submit(work)
        return futures

    def settle(self) -> None:
        """Nothing is put off."""


def create(cfg: AnswererConfig, local: Chat | None = None) -> Extractive:
    return Extractive()


def _answer(request: AnswerRequest) -> str:
    if not request.items:
        return ""
    # the best item is the first, but where the whole memory is given in its own order; max() keeps the first of equals
    top = max(request.items, key=lambda item: item.score).text
    asked = {word.lower() for word in words(request.question)}
    if _labels(top):
        lines = [line for line in top.splitlines() if line.strip()]
        if len(lines) <= _EXAMPLE_LINES:
            return _vote(request.items)
        labels = _labels(_nearest_line(lines, asked))
        if labels:
            return labels[0]
    sentences = _SENTENCE.findall(top) or [top]
    # max() keeps the first of equals, so that an answer never depends on hashing
    best = max(sentences, key=lambda sentence: len(asked & {word.lower() for word in words(sentence)}))
    return _longest_run(best, asked | _FUNCTION_WORDS)


def _used(request: AnswerRequest, text: str) -> tuple[int, ...]:
    """Places of the items that the answer stands in: those that voted for it, or the best one."""
    if not request.items:
        return ()
    best = max(range(len(request.items)), key=lambda i: request.items[i].score)
    voted = [i for i, item in enumerate(request.items) if text in _labels(item.text)]
    return tuple(voted) if best in voted else (best,)


def _nearest_line(lines: Sequence[str], asked: set[str]) -> str:
    """The line that shares most words with the question, with the `Label:` line that follows it."""
    best = max(range(len(lines)), key=lambda i: len(asked & {word.lower() for word in words(lines[i])}))
    following = lines[best + 1] if best + 1 < len(lines) else ""
    return f"{lines[best]}\n{following}" if following.lower().startswith("label") else lines[best]


def _labels(text: str) -> list[str]:
    """Of `utterance => label`, and of the Sentence/Label layout of the published classification streams."""
    labels = []
    for line in text.split("\n"):
        name, _, field = line.partition(":")
        _, arrow, label = line.rpartition("=>")
        if field and name.lower() in ("label", "labels"):
            labels.append(field.strip())
        elif arrow and label and "=" not in label and ">" not in label:
            labels.append(label.strip())
    return labels


def _vote(items: Sequence[Retrieved]) -> str:
    votes: dict[str, float] = defaultdict(float)
    for item in items:
        for label in _labels(item.text):
            votes[label] += item.score
    return max(votes, key=lambda label: votes[label])


def _longest_run(sentence: str, excluded: set[str] | frozenset[str]) -> str:
    """The longest contiguous stretch of words outside `excluded`, as it stands in the sentence; "" if none."""
    runs: list[tuple[int, int, int]] = []  # (length in words, start, end)
    for match in (_SPECIAL_WORD if is_special(sentence) else _WORD).finditer(sentence):
        if match.group().lower() in excluded or all(part.lower() in excluded for part in words(match.group())):
            runs.append((0, match.end(), match.end()))  # breaks the run
        elif runs and runs[-1][0] and not sentence[runs[-1][2] : match.start()].strip():
            length, start, _ = runs[-1]
            runs[-1] = (length + 1, start, match.end())
        else:
            runs.append((1, match.start(), match.end()))
    if not runs:
        return ""
    _, start, end = max(runs, key=lambda run: run[0])
    return sentence[start:end]
