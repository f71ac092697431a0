"""BANKING77: questions to a bank, 77 intents. Input: the folder of `train.csv` and `test.csv` (text,category).

Train rows are made of the train file alone, eval rows of the test file.
"""

from __future__ import annotations

from collections.abc import Iterator

from finemem_jax.corpora import _labelled, _reading
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.types import CountTokens, Episode


def episodes(options: BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    train, test = (_examples(options.input, name) for name in ("train.csv", "test.csv"))
    numbered = options.labels == "numbers"
    dataset = _labelled.Dataset(
        data_source="icl_banking77" if numbered else "banking77",
        labels=sorted({example.label for example in (*train, *test)}),
        numbered=numbered,
    )
    yield from _labelled.streams(_labelled.of_split(train, test, options), dataset, options, count_tokens)


def _examples(folder: str, name: str) -> list[_labelled.Example]:
    (path,) = _reading.find(folder, name)
    return [_labelled.Example(row["text"], row["category"]) for row in _reading.read_csv(path, "text", "category")]
