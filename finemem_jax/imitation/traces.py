"""Recorded turns of any writer: JSON lines, one turn each (`config.sft.traces`; `finemem collect-traces` writes them).

    {"chunk": "Ann moved to Oslo.",
     "memory": [{"id": "#3", "content": "Ann lives in Bergen."}],
     "operations": [{"name": "memory_update", "arguments": {"content": "Ann lives in Oslo.", "id": "#3"}}],
     "episode": "locomo-7", "step": 4, "sample": 0, "reward": 0.83}

chunk       what is read, not empty
question    what the writer knew would be asked, as config.method.sees_question shows it; may be left out
memory      the items in view, oldest first, each with an id of its own and, where its memory has several stores, the
            "kind" of its own; may be left out: nothing was in memory
operations  what was written, in order, at least one: tools of `config.memory.name` with their arguments, all strings
episode, step, sample, reward   where it comes from; for people, and not read

How the turn is shown and its operations spelled is not part of it: that is `config.prompt`'s matter.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.env import operations
from finemem_jax.env.environment import Environment, turn_prompt
from finemem_jax.imitation.examples import Example
from finemem_jax.types import MemoryItem, Operation

_FIELDS = ("chunk", "memory", "operations", "question")
_REMARKS: dict[str, type | tuple[type, ...]] = {
    "episode": str,
    "step": int,
    "sample": int,
    "reward": (int, float, type(None)),
}


@dataclass(frozen=True, slots=True)
class Trace:
    """One turn: what was read and what was written."""

    chunk: str
    memory: tuple[MemoryItem, ...]  # those in view, oldest first
    operations: tuple[Operation, ...]
    question: str = ""  # what is to be answered at the end, where the writer saw it (config.method.sees_question)


class _Wrong(Exception):
    """What is wrong with a line."""


def record(trace: Trace, **remarks: object) -> dict[str, Any]:
    """The trace as the object of a line."""
    memory = [
        {"id": item.id, "content": item.text} | ({"kind": item.kind} if item.kind else {}) for item in trace.memory
    ]
    written = [{"name": operation.name, "arguments": dict(operation.arguments)} for operation in trace.operations]
    seen = {"question": trace.question} if trace.question else {}
    return {**remarks, "chunk": trace.chunk, **seen, "memory": memory, "operations": written}


def read_traces(path: Path) -> list[Trace]:
    """The traces of a file. Raises UserError, one line that names the line, on the first that is not one."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"config.sft.traces={path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config.sft.traces={path}: not UTF-8 at byte {error.start}") from error
    traces = []
    # Not splitlines(): a text may hold U+2028 and other characters that it takes for ends of lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                traces.append(_parsed(line))
            except _Wrong as wrong:
                raise UserError(f"config.sft.traces={path}, line {number}: {wrong}") from None
    if not traces:
        raise UserError(f"config.sft.traces={path}: holds no traces")
    return traces


def _parsed(line: str) -> Trace:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"not JSON ({str(error)[:80]})") from None
    known = (*_FIELDS, *_REMARKS)
    fields = _object(value, "a line", known, needed=("chunk", "operations"))
    for name, kind in _REMARKS.items():
        if name in fields and (not isinstance(fields[name], kind) or isinstance(fields[name], bool)):
            raise _Wrong(f"{name} is {_shown(fields[name])}")
    chunk = _text(fields["chunk"], "chunk")
    memory = tuple(map(_item, _list(fields.get("memory", []), "memory")))
    twice = [item_id for item_id, count in Counter(item.id for item in memory).items() if count > 1]
    if twice:
        raise _Wrong(f"two items of memory have the id {_shown(twice[0])}")
    written = tuple(_operation(item) for item in _list(fields["operations"], "operations"))
    if not written:
        raise _Wrong("operations is empty; a turn that keeps nothing is a memory_skip")
    return Trace(chunk, memory, written, _text(fields["question"], "question") if "question" in fields else "")


def _item(value: object) -> MemoryItem:
    fields = _object(value, "an item of memory", ("id", "content", "kind"), needed=("id", "content"))
    kind = _text(fields["kind"], "the kind of an item") if "kind" in fields else ""
    return MemoryItem(_text(fields["id"], "an id"), _text(fields["content"], "the content of an item"), 0, kind)


def _operation(value: object) -> Operation:
    fields = _object(value, "an operation", ("name", "arguments"), needed=("name",))
    arguments = fields.get("arguments", {})
    if not isinstance(arguments, dict) or not all(isinstance(argument, str) for argument in arguments.values()):
        raise _Wrong(f"arguments must be an object of strings, not {_shown(arguments)}")
    return Operation(_text(fields["name"], "the name of an operation"), arguments)


def _object(value: object, what: str, known: Sequence[str], needed: Sequence[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{what} must be an object, not {_shown(value)}")
    for key in value:
        if key not in known:
            raise _Wrong(f"{what} has no field {_shown(key)}; it has {', '.join(known)}")
    for key in needed or known:
        if key not in value:
            raise _Wrong(f"{what} lacks {key}")
    return value


def _list(value: object, what: str) -> list:
    if not isinstance(value, list):
        raise _Wrong(f"{what} must be a list, not {_shown(value)}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"{what} must be a text that is not empty, not {_shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair breaks tokenizers
        raise _Wrong(f"{what} is not valid Unicode") from None
    return value


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def render_traces(traces: Sequence[Trace], env: Environment) -> tuple[list[Example], Counter[str]]:
    """The traces as the configured prompt shows them and the codec spells them; why how many others are left out.

    Left out is what the environment would refuse: such a turn would teach what fails."""
    examples, left_out = [], Counter[str]()
    for trace in traces:
        try:
            examples.append(_example(trace, env))
        except _Wrong as wrong:
            left_out[str(wrong)] += 1
    return examples, left_out


def _example(trace: Trace, env: Environment) -> Example:
    _check_operations(trace, env)
    try:
        prompt, shown = turn_prompt(env, trace.chunk, trace.memory, trace.question)
    except UserError:
        raise _Wrong(f"a chunk too long for config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens}") from None
    ids = {item.id for item in shown}
    if not _targets(trace, env) <= ids:
        raise _Wrong(f"no room for an item it names in config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens}")
    text = operations.emit(trace.operations, env.prompt.codec, env.specs) + "\n"
    written = env.tokenizer.encode(text, add_special_tokens=False)
    if len(written) >= env.prompt.max_completion_tokens:
        raise _Wrong(f"longer than config.prompt.max_completion_tokens={env.prompt.max_completion_tokens}")
    return Example(prompt, (*written, env.tokenizer.eos_token_id))


def _check_operations(trace: Trace, env: Environment) -> None:
    """Raises _Wrong where the environment would refuse one of the operations, or not read them."""
    limits, known = env.memory, [spec.name for spec in env.specs]
    if len(trace.operations) > limits.max_operations:
        raise _Wrong(f"more operations than config.memory.max_operations={limits.max_operations}")
    for operation in trace.operations:
        if operation.name not in known:
            raise _Wrong(f"no tool {_shown(operation.name)} in config.memory.name={limits.name}")
    text = operations.emit(trace.operations, env.prompt.codec, env.specs)
    read = operations.parse(text, env.specs, codec=env.prompt.codec)
    for operation in read:
        if operation.error:
            raise _Wrong(operation.error)
    # Space around an argument is no part of it in some codecs.
    if [(o.name, _stripped(o)) for o in read] != [(o.name, _stripped(o)) for o in trace.operations]:
        raise _Wrong(f"operations that config.prompt.codec={env.prompt.codec} cannot spell")
    if not _targets(trace, env) <= {item.id for item in trace.memory}:
        raise _Wrong("it names an item that is not in its memory")
    for operation in trace.operations:
        if env.count_tokens(str(operation.arguments.get("content", ""))) > limits.max_item_tokens:
            raise _Wrong(f"an item longer than config.memory.max_item_tokens={limits.max_item_tokens}")


def _targets(trace: Trace, env: Environment) -> set[str]:
    """Ids of the items that its operations name."""
    targets = map(env.empty_memory().target, trace.operations)
    return {target for target in targets if target is not None}


def _stripped(operation: Operation) -> dict[str, str]:
    return {name: str(value).strip() for name, value in operation.arguments.items()}
