"""CLINC150: short requests to an assistant, 150 intents in 10 domains, and out-of-scope requests as noise.

Input: `data_full.json` as published (a dict of splits, each a list of [text, intent]), or its folder. Train rows are
made of the train utterances alone, eval rows of validation and test utterances that do not occur in train.
`--label-level=coarse` reads `domains.json` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from finemem_jax.corpora import _fields, _labelled, _reading
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.types import CountTokens, Episode

_PARTS = {"train": ("train",), "eval": ("val", "test")}


def episodes(options: BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    path = _reading.find(options.input, "data_full*.json")[0]
    data = _fields.mapping(_reading.read_json(path), str(path), "the splits")
    coarse = _domain_of_intents(path) if options.label_level == "coarse" else {}

    def examples(split: str) -> list[_labelled.Example]:
        rows = [row for part in _PARTS[split] for row in _pairs(data, part, path)]
        return [_labelled.Example(text, coarse.get(intent, intent)) for text, intent in rows]

    train, held_out = examples("train"), examples("eval")
    numbered = options.labels == "numbers"
    dataset = _labelled.Dataset(
        data_source="icl_clinc150" if numbered else "clinc150",
        labels=sorted({example.label for example in (*train, *held_out)}),
        numbered=numbered,
        noise=_out_of_scope(data, options.split, path),
    )
    yield from _labelled.streams(_labelled.of_split(train, held_out, options), dataset, options, count_tokens)


def _pairs(data: Mapping[str, object], part: str, path: Path) -> Iterator[tuple[str, str]]:
    """(text, intent) of each row of a part."""
    for i, row in enumerate(_fields.listed(data, part, str(path))):
        if (
            not isinstance(row, list)
            or len(row) != 2
            or not all(isinstance(cell, str) and cell.strip() for cell in row)
        ):
            raise _fields.wrong(str(path), f"{part}[{i}]", "a list of text and intent", row)
        yield row[0], row[1]


def _out_of_scope(data: Mapping[str, object], split: str, path: Path) -> list[str]:
    """Utterances without an intent; those of train and eval are disjoint as published."""
    parts = [f"oos_{part}" for of, parts in _PARTS.items() if split in (of, "all") for part in parts]
    rows = [text for part in parts if part in data for text, _ in _pairs(data, part, path)]
    return list(dict.fromkeys(" ".join(text.split()) for text in rows))


def _domain_of_intents(path: Path) -> dict[str, str]:
    (beside, *_) = _reading.find(str(path.parent), "domains.json")
    found = _fields.mapping(_reading.read_json(beside), str(beside), "the domains")
    return {str(intent): domain for domain in found for intent in _fields.listed(found, domain, str(beside))}
