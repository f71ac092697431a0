"""What a method's prompts and its codec say again and again, for a tokenizer that has a token for each of these texts.

A policy of half a million parameters spends its steps on what to write, not on spelling instructions and JSON. What is
the same in every turn is found by writing turns about nothing: whatever stands between the marks repeats.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from finemem_jax.config import MemoryConfig, MethodConfig, PromptConfig, resolve
from finemem_jax.env import operations, prompts
from finemem_jax.types import MemoryItem, Operation, ToolSpec

_MARK = "\ue000"  # stands for whatever differs; JSON writes it as it is
_LEAST = 4  # characters; shorter texts stand in ordinary ones, too


def scaffolding(memory: MemoryConfig, prompt: PromptConfig, method: MethodConfig) -> list[str]:
    """The texts, each once."""
    specs = resolve("finemem_jax.memory", memory.name).SPECS
    kinds = [kind for spec in specs for names in spec.choices.values() for kind in names] or [""]
    written = [
        *_writing(specs, kinds, prompt, memory.max_operations),
        *_answering(prompt),
        *getattr(resolve("finemem_jax.methods", method.name), "examples", lambda mark: ())(_MARK),
        *_calls(specs, prompt.codec),
    ]
    pieces = (piece for text in written for piece in text.split(_MARK))
    return list(dict.fromkeys(piece for piece in pieces if len(piece) >= _LEAST and not piece.isspace()))


def _writing(
    specs: Sequence[ToolSpec], kinds: Sequence[str], prompt: PromptConfig, max_operations: int
) -> Iterator[str]:
    """What writing turns say, with and without items and a question."""
    stores = list(dict.fromkeys(kind.removesuffix("_memory") for kind in kinds))
    few = [MemoryItem(_MARK, _MARK, 0, kind) for kind in stores]
    for items, question in itertools.product(([], few, few * 2), ("", _MARK)):
        messages = prompts.conversation(
            specs, _MARK, items, prompt, max_operations=max_operations, question=question, layout=prompts.Layout()
        )
        yield from (message["content"] for message in messages)


def _answering(prompt: PromptConfig) -> Iterator[str]:
    module: Any = resolve(prompts.PROMPTS, prompt.name)
    if hasattr(module, "answer_messages"):
        for notes in ([], [_MARK]):
            yield from module.answer_messages(_MARK, notes, "")
    if hasattr(module, "write_answer"):
        yield module.write_answer(_MARK)


def _calls(specs: Sequence[ToolSpec], codec: str) -> Iterator[str]:
    """Every tool with every choice, with and without what may be left out, alone and one behind the other."""
    for spec in specs:
        for chosen in itertools.product(*spec.choices.values()):
            arguments = spec.example(_MARK) | dict(zip(spec.choices, chosen, strict=True))
            needed = {name: value for name, value in arguments.items() if name in spec.required}
            for call in (arguments, needed):
                operation = Operation(spec.name, call)
                yield operations.emit([operation], codec, specs)
                yield operations.emit([operation, operation], codec, specs)
