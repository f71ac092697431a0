"""What `finemem data` can be told: options as dataclass fields, with their defaults and help texts."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from finemem_jax.config import UserError, plugins, unknown

_T = TypeVar("_T")

_EVAL_SHARE = 5  # every fifth document is held out for --split=eval


def option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


def parse_options(parser: argparse.ArgumentParser, options: Iterable[Field]) -> None:
    """One `--option` per field: a switch for a truth value, required where there is no default."""
    for given in options:
        flag, text, choices = "--" + given.name.replace("_", "-"), given.metadata["help"], given.metadata["choices"]
        text = text.replace("%", "%%")
        if given.default is MISSING:
            parser.add_argument(flag, required=True, help=text)
        elif given.default is False:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            default = "" if given.default == "" else f" (default: {given.default})"
            kind = type(given.default)
            parser.add_argument(flag, type=kind, default=given.default, choices=choices or None, help=text + default)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    source: str = field(
        metadata={"help": f"kind of raw data: {', '.join(plugins('finemem_jax.corpora'))}", "choices": ()}
    )
    input: str = field(metadata={"help": "raw file, or the folder that holds it", "choices": ()})
    output: str = field(metadata={"help": "parquet file to write", "choices": ()})
    split: str = option(
        "train",
        "part of the raw data to use; train and eval share no utterance, article, conversation or story",
        ("train", "eval", "all"),
    )
    chunk_tokens: int = option(1024, "most tokens of a chunk's content, the dialogue wrapper not counted")
    chunks: int = option(10, "chunks per instance; 0 = as many as there is text for")
    instances: int = option(100, "most instances; 0 = all there is text for (classification streams need a number)")
    questions: int = option(100, "most final questions per instance")
    chunk_questions: int = option(5, "most questions about one chunk, made from annotated evidence; 0 = none")
    layout: str = option(
        "dialogue",
        "dialogue: each chunk is a dated user turn with a reply; bare: its content alone, examples as `text => label`; "
        "marked: as bare, examples as `Sentence: text => label`",
        ("dialogue", "bare", "marked"),
    )
    seed: int = option(0, "everything drawn at random follows from it")
    tokenizer: str = option("", "what tokens are counted with: folder or hub name; empty = words and signs")
    max_answer_words: int = option(5, "squad, hotpotqa: drop questions whose answer is longer; 0 = keep all")
    noise: int = option(
        0,
        "clinc150: unlabelled out-of-scope utterances per chunk; hotpotqa: unrelated articles, longmemeval: "
        "unrelated sessions per question; locomo: see --answerable",
    )
    line_tokens: int = option(
        0, "locomo with --layout=bare: most tokens of a line, a turn that is longer becomes several; 0 = --chunk-tokens"
    )
    answerable: str = option(
        "",
        "locomo with --layout=bare: keep the questions that this embedded answerer answers (score of at least .5) from "
        "the annotated turns alone; chunks without their lines are left out, but for --noise in front of each",
        ("", "extractive", "spans"),
    )
    columns: str = option(
        "", "conversations: columns of CSV files, as role=who,content=text,user=customer,session=ticket,time=at"
    )
    held_out_every: int = option(0, "locomo: every so many-th conversation is for eval; 0 = every fifth")
    changed_share: float = option(0.5, "conflict: share of the facts that change in a later chunk")
    labels: str = option("names", "classification: how a label is written", ("names", "numbers"))
    label_level: str = option("fine", "clinc150, nlu: intents, or the domains above them", ("fine", "coarse"))
    labels_per_instance: int = option(0, "classification: labels drawn for an instance; 0 = all")
    utterances: int = option(0, "classification: labelled examples per chunk; 0 = fill --chunk-tokens")

    def __post_init__(self) -> None:
        known = plugins("finemem_jax.corpora")
        if self.source not in known:
            raise UserError(unknown(self.source, known, "--source"))
        for option in fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            flag = "--" + option.name.replace("_", "-")
            if choices and value not in choices:
                raise UserError(f"{flag}={value}: allowed are {', '.join(choices)}")
            if isinstance(value, int) and value < (1 if option.name in ("chunk_tokens", "questions") else 0):
                raise UserError(f"{flag}={value}: too small")
        if not 0 < self.changed_share <= 1:
            raise UserError(f"--changed-share={self.changed_share}: must be above 0 and at most 1")
        if self.answerable and (self.source, self.layout) != ("locomo", "bare"):
            raise UserError(f"--answerable={self.answerable}: only with --source=locomo --layout=bare")
        if self.held_out_every == 1:
            raise UserError("--held-out-every=1 leaves nothing to train on: 0 (every fifth), or 2 and more")
        if not self.output.endswith(".parquet"):
            raise UserError(f"--output={self.output}: must end in .parquet")

    def rng(self, *names: object) -> random.Random:
        """A generator of its own for each purpose, so that one more draw here changes nothing there."""
        return random.Random("/".join(map(str, (self.seed, self.source, *names))))

    def of_split(self, documents: Sequence[_T]) -> list[_T]:
        """The documents of `split`."""
        train, held_out = divide(documents, self.held_out_every or _EVAL_SHARE)
        return {"train": train, "eval": held_out, "all": list(documents)}[self.split]


def divide(documents: Sequence[_T], every: int = _EVAL_SHARE) -> tuple[list[_T], list[_T]]:
    """(train, eval): every fifth document is for eval. For raw data that is published in one part."""
    train = [document for i, document in enumerate(documents, start=1) if i % every]
    return train, list(documents[every - 1 :: every])
