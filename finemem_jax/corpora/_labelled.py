"""Classification streams: labelled examples in chunks, and questions that ask for the label of another utterance."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from finemem_jax.config import UserError
from finemem_jax.corpora import _dialogue
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.env.counting import Growing
from finemem_jax.types import Chunk, CountTokens, Episode, Question


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the streams of one dataset have in common."""

    data_source: str
    labels: Sequence[str]  # all of them, in the order that numbers them
    numbered: bool  # labels are written as numbers, not as names
    noise: Sequence[str] = ()  # utterances without a label
    text_field: str = "Sentence"  # how an example is introduced, in all layouts but the bare one
    label_field: str = "Label"

    def write_label(self, label: str) -> str:
        return str(self.labels.index(label)) if self.numbered else label.replace("_", " ")

    def write_example(self, example: Example, layout: str) -> str:
        label = self.write_label(example.label)
        if layout == "bare":
            return f"{example.text} => {label}"
        if layout == "marked":
            return f"{self.text_field}: {example.text} => {label}"
        return f"{self.text_field}: {example.text}\n{self.label_field}: {label}"


def of_split(train: Iterable[Example], held_out: Iterable[Example], options: BuildOptions) -> list[Example]:
    """The examples of the split, no utterance twice; one that stands in both parts belongs to train."""
    in_train = _distinct(train)
    in_eval = {key: example for key, example in _distinct(held_out).items() if key not in in_train}
    pools = {"train": in_train, "eval": in_eval, "all": in_train | in_eval}
    return list(pools[options.split].values())


def _distinct(examples: Iterable[Example]) -> dict[str, Example]:
    distinct: dict[str, Example] = {}
    for example in examples:
        distinct.setdefault(normal_text(example.text), example)
    return distinct


def normal_text(text: str) -> str:
    """Equal for two utterances that are the same one."""
    return " ".join(text.casefold().split())


def streams(
    pool: Sequence[Example], dataset: Dataset, options: BuildOptions, count_tokens: CountTokens
) -> Iterator[Episode]:
    """`options.instances` instances over `pool`.

    The utterances of a label are divided anew for each instance: half may be shown, a quarter is asked at the end, a
    quarter is asked about chunks that show the label. So no question repeats an utterance that was shown, nor a final
    question one that was asked about a chunk.
    """
    if not options.instances:
        raise UserError("--instances=0: a classification stream has no natural end, give a number")
    by_label: dict[str, list[str]] = defaultdict(list)
    for example in pool:
        by_label[example.label].append(" ".join(example.text.split()))
    usable = [label for label in dataset.labels if len(by_label[label]) >= 4]
    wanted = options.labels_per_instance or len(usable)
    if not 0 < wanted <= len(usable):
        raise UserError(
            f"--labels-per-instance={wanted}: in split {options.split} {len(usable)} labels have the 4 utterances "
            "that an instance takes"
        )
    for number in range(options.instances):
        rng = options.rng(options.split, number)
        divided = {label: _Divided.draw(by_label[label], rng) for label in rng.sample(usable, wanted)}
        chunks = _show(divided, dataset, options, count_tokens, rng)
        yield _ask_about(chunks, divided, number, dataset, options, rng)


@dataclass(frozen=True, slots=True)
class _Divided:
    """The utterances of one label, by what an instance may use them for."""

    shown: list[str]
    asked: list[str]
    asked_about_chunks: list[str]

    @classmethod
    def draw(cls, utterances: Sequence[str], rng: random.Random) -> _Divided:
        drawn = rng.sample(utterances, len(utterances))
        quarter = len(drawn) // 4
        return cls(drawn[2 * quarter :], drawn[:quarter], drawn[quarter : 2 * quarter])


class _Shown(NamedTuple):
    """A chunk: its content, and the labels of the examples in it."""

    text: str
    labels: list[str]


def _show(
    divided: dict[str, _Divided],
    dataset: Dataset,
    options: BuildOptions,
    count_tokens: CountTokens,
    rng: random.Random,
) -> list[_Shown]:
    """The chunks, filled in turn to `utterances` examples or to the token budget; an example is never cut."""
    separator = "\n\n" if options.layout == "dialogue" else "\n"
    waiting = _order_shown(divided, options, rng)
    most_noise = options.noise * (options.chunks or len(waiting))
    noise = deque(rng.sample(dataset.noise, min(len(dataset.noise), most_noise)))
    chunks: list[_Shown] = []
    while waiting and (not options.chunks or len(chunks) < options.chunks):
        lines: list[str] = []
        size = Growing(count_tokens, separator)
        while noise and len(lines) < options.noise:
            if size.with_next(noise[0]) > options.chunk_tokens // 2:
                break  # the other half of the budget is for examples
            size.add(noise[0])
            lines.append(noise.popleft())
        labels: list[str] = []
        while waiting and (not options.utterances or len(labels) < options.utterances):
            line = dataset.write_example(waiting[0], options.layout)
            if labels and size.with_next(line) > options.chunk_tokens:
                break
            size.add(line)
            labels.append(waiting.popleft().label)
            lines.append(line)
        rng.shuffle(lines)
        chunks.append(_Shown(separator.join(lines), list(dict.fromkeys(labels))))
    return chunks


def _order_shown(divided: dict[str, _Divided], options: BuildOptions, rng: random.Random) -> deque[Example]:
    """Utterances to show, in order. There is one of every label among those that a stream has room for."""
    first = [Example(parts.shown[0], label) for label, parts in divided.items()]
    rest = [Example(text, label) for label, parts in divided.items() for text in parts.shown[1:]]
    rng.shuffle(first)
    rng.shuffle(rest)
    ordered = first + rest
    room = options.utterances * options.chunks
    if room:  # known beforehand: no label need come early
        ordered = ordered[:room]
        rng.shuffle(ordered)
    return deque(ordered)


def _ask_about(
    shown: Sequence[_Shown],
    divided: dict[str, _Divided],
    number: int,
    dataset: Dataset,
    options: BuildOptions,
    rng: random.Random,
) -> Episode:
    """The episode of `shown`, with questions about each chunk and at the end."""
    chunks, evidence = [], defaultdict(list)  # label -> chunks that show it
    for index, (text, labels) in enumerate(shown):
        for label in labels:
            evidence[label].append(index)
        if options.layout == "dialogue":
            text = _dialogue.wrap(text, index, rng, labelled=True)
        pools = {label: divided[label].asked_about_chunks for label in labels}
        about = _ask(pools, dict.fromkeys(labels, (index,)), options.chunk_questions, dataset, rng)
        chunks.append(Chunk(text, index, about))
    pools = {label: divided[label].asked for label in evidence}
    questions = _ask(pools, evidence, options.questions, dataset, rng)
    return Episode(f"{dataset.data_source}-{number}", dataset.data_source, tuple(chunks), questions)


def _ask(
    pools: Mapping[str, Sequence[str]],
    evidence: Mapping[str, Sequence[int]],
    most: int,
    dataset: Dataset,
    rng: random.Random,
) -> tuple[Question, ...]:
    """At most `most` questions from `pools` (label -> utterances), the labels in turn, shuffled."""
    waiting = {label: rng.sample(texts, len(texts)) for label, texts in pools.items()}
    questions: list[Question] = []
    while len(questions) < most and any(waiting.values()):
        for label in rng.sample(sorted(waiting), len(waiting)):
            if waiting[label] and len(questions) < most:
                answer = dataset.write_label(label)
                questions.append(Question(waiting[label].pop(), (answer,), evidence=tuple(evidence[label])))
    rng.shuffle(questions)
    return tuple(questions)
