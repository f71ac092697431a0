"""NLU evaluation data: commands to a home assistant, 64 intents in 18 scenarios.

Input: the folder of `train.jsonl` and `test.jsonl`, lines of {"text", "intent"}, the intent being `scenario_intent`.
Train rows are made of the train file alone, eval rows of the test file. `--label-level=coarse` asks for the scenario.
"""

from __future__ import annotations

from collections.abc import Iterator

from finemem_jax.corpora import _fields, _labelled, _reading
from finemem_jax.corpora._options import BuildOptions
from finemem_jax.types import CountTokens, Episode


def episodes(options: BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    train, test = (_examples(options, name) for name in ("train.jsonl", "test.jsonl"))
    numbered = options.labels == "numbers"
    dataset = _labelled.Dataset(
        data_source="icl_nlu" if numbered else "nlu",
        labels=sorted({example.label for example in (*train, *test)}),
        numbered=numbered,
    )
    yield from _labelled.streams(_labelled.of_split(train, test, options), dataset, options, count_tokens)


def _examples(options: BuildOptions, name: str) -> list[_labelled.Example]:
    (path,) = _reading.find(options.input, name)
    is_coarse = options.label_level == "coarse"
    examples = []
    for number, row in enumerate(_reading.read_json_lines(path)):
        text, intent = (_fields.text(row, field, f"{path} row {number}") for field in ("text", "intent"))
        examples.append(_labelled.Example(text, intent.partition("_")[0] if is_coarse else intent))
    return examples
