"""Classification streams: labelled examples in chunks, and questions that ask for the label of another utterance."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from finemem_jax.config import UserError
from finemem_jax.corpora import _dialogue
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.types import Chunk, CountTokens, Episode, Question


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Fields:
    """How an example is written in the dialogue layout."""

    text: str = "Sentence"
    label: str = "Label"


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
    pool: Sequence[Example],
    options: BuildOptions,
    count_tokens: CountTokens,
    *,
    data_source: str,
    labels: Sequence[str],
    numbered: bool,
    noise: Sequence[str] = (),
    fields: Fields = Fields(),
) -> Iterator[Episode]:
    """`options.instances` instances over `pool`.

    labels: all labels of the dataset, in the order that numbers them; numbered: the number is written, not the name.
    noise: utterances without a label.

    The utterances of a label are divided anew for each instance: half may be shown, a quarter is asked at the end, a
    quarter is asked about chunks that show the label. So no question repeats an utterance that was shown, nor a final
    question one that was asked about a chunk.
    """
    if not options.instances:
        raise UserError("--instances=0: a classification stream has no natural end, give a number")
    by_label: dict[str, list[str]] = defaultdict(list)
    for example in pool:
        by_label[example.label].append(" ".join(example.text.split()))
    usable = [label for label in labels if len(by_label[label]) >= 4]
    wanted = options.labels_per_instance or len(usable)
    if not 0 < wanted <= len(usable):
        raise UserError(
            f"--labels-per-instance={wanted}: in split {options.split} {len(usable)} labels have the 4 utterances "
            "that an instance takes"
        )
    numbers = {label: str(number) for number, label in enumerate(labels)}
    written = numbers if numbered else {label: label.replace("_", " ") for label in labels}
    for instance in range(options.instances):
        rng = options.rng(options.split, instance)
        divided = {label: _Divided.draw(by_label[label], rng) for label in rng.sample(usable, wanted)}
        yield _stream(instance, divided, written, noise, options, count_tokens, rng, data_source, fields)


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


def _stream(
    instance: int,
    divided: dict[str, _Divided],
    written: dict[str, str],
    noise: Sequence[str],
    options: BuildOptions,
    count_tokens: CountTokens,
    rng: random.Random,
    data_source: str,
    fields: Fields,
) -> Episode:
    shown = _chunked(_order_shown(divided, rng), written, noise, options, count_tokens, rng, fields)
    chunks, chunks_with = [], defaultdict(list)
    for index, (text, labels) in enumerate(shown):
        for label in labels:
            chunks_with[label].append(index)
        if options.layout == "dialogue":
            text = _dialogue.wrap(text, index, rng, labelled=True)
        pools = {label: divided[label].asked_about_chunks for label in labels}
        about = _ask(pools, options.chunk_questions, written, rng, {label: (index,) for label in labels})
        chunks.append(Chunk(text, index, about))
    pools = {label: divided[label].asked for label in chunks_with}
    evidence = {label: tuple(indices) for label, indices in chunks_with.items()}
    questions = _ask(pools, options.questions, written, rng, evidence)
    return Episode(f"{data_source}-{instance}", data_source, tuple(chunks), questions)


def _order_shown(divided: dict[str, _Divided], rng: random.Random) -> list[Example]:
    """All utterances that may be shown: one of each label first, then the rest, each part shuffled."""
    first = [Example(parts.shown[0], label) for label, parts in divided.items()]
    rest = [Example(text, label) for label, parts in divided.items() for text in parts.shown[1:]]
    rng.shuffle(first)
    rng.shuffle(rest)
    return first + rest


def _chunked(
    examples: Sequence[Example],
    written: dict[str, str],
    noise: Sequence[str],
    options: BuildOptions,
    count_tokens: CountTokens,
    rng: random.Random,
    fields: Fields,
) -> list[tuple[str, list[str]]]:
    """(content, labels shown in it) of each chunk, filled in turn to `utterances` or to the token budget."""
    separator = "\n" if options.layout == "bare" else "\n\n"
    unlabelled = iter(rng.sample(noise, min(len(noise), options.noise * (options.chunks or len(examples)))))
    waiting = list(reversed(examples))
    chunks = []
    while waiting and (not options.chunks or len(chunks) < options.chunks):
        lines = list(itertools.islice(unlabelled, options.noise))
        labels: list[str] = []
        while waiting and (not options.utterances or len(labels) < options.utterances):
            line = _render(waiting[-1].text, written[waiting[-1].label], options.layout, fields)
            if labels and count_tokens(separator.join([*lines, line])) > options.chunk_tokens:
                break
            labels.append(waiting.pop().label)
            lines.append(line)
        rng.shuffle(lines)
        chunks.append((separator.join(lines), list(dict.fromkeys(labels))))
    return chunks


def _render(text: str, label: str, layout: str, fields: Fields) -> str:
    return f"{text} => {label}" if layout == "bare" else f"{fields.text}: {text}\n{fields.label}: {label}"


def _ask(
    pools: dict[str, list[str]],
    most: int,
    written: dict[str, str],
    rng: random.Random,
    evidence: dict[str, tuple[int, ...]],
) -> tuple[Question, ...]:
    """At most `most` questions from `pools`, the labels in turn, shuffled."""
    waiting = {label: rng.sample(texts, len(texts)) for label, texts in pools.items()}
    questions: list[Question] = []
    while len(questions) < most and any(waiting.values()):
        for label in rng.sample(sorted(waiting), len(waiting)):
            if waiting[label] and len(questions) < most:
                questions.append(Question(waiting[label].pop(), (written[label],), evidence=evidence[label]))
    rng.shuffle(questions)
    return tuple(questions)
