"""CLINC150: short requests to an assistant, 150 intents in 10 domains, and out-of-scope requests as noise.

Input: `data_full.json` as published (a dict of splits, each a list of [text, intent]), or its folder. Train rows are
made of the train utterances alone, eval rows of validation and test utterances that do not occur in train.
`--label-level=coarse` reads `domains.json` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finemem_jax.config import UserError
from finemem_jax.corpora import _labelled, _reading
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.types import CountTokens, Episode

_PARTS = {"train": ("train",), "eval": ("val", "test")}


def episodes(options: BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    path = _reading.find(options.input, "data_full*.json")[0]
    data = _reading.read_json(path)
    if not isinstance(data, dict) or not {"train", "val", "test"} <= data.keys():
        raise UserError(f"{path}: want an object with the splits train, val and test")
    coarse = _domain_of_intents(path) if options.label_level == "coarse" else {}

    def examples(split: str) -> list[_labelled.Example]:
        rows = [row for part in _PARTS[split] for row in data[part]]
        return [_labelled.Example(text, coarse.get(intent, intent)) for text, intent in rows]

    pool = _labelled.of_split(examples("train"), examples("eval"), options)
    numbered = options.labels == "numbers"
    dataset = _labelled.Dataset(
        data_source="icl_clinc150" if numbered else "clinc150",
        labels=sorted({example.label for split in _PARTS for example in examples(split)}),
        numbered=numbered,
        noise=_out_of_scope(data, options.split),
    )
    yield from _labelled.streams(pool, dataset, options, count_tokens)


def _out_of_scope(data: dict, split: str) -> list[str]:
    """Utterances without an intent; those of train and eval are disjoint as published."""
    parts = [part for of, parts in _PARTS.items() if split in (of, "all") for part in parts]
    return list(dict.fromkeys(" ".join(text.split()) for part in parts for text, _ in data.get(f"oos_{part}", ())))


def _domain_of_intents(path: Path) -> dict[str, str]:
    found = _reading.read_json(_reading.find(str(path.parent), "domains.json")[0])
    return {intent: domain for domain, intents in found.items() for intent in intents}  # type: ignore[attr-defined]
