"""What the policy reads at a step: instructions, tools and format, the chunk, the items of memory in view.

There is one rendering for all paths: the messages of a turn are made here (`prompts/` says what, `codecs/` describes
tools and format), and whoever serves the policy gets these messages or their tokens. The tools stand in the system
turn, in the codec's words: few chat templates know tools, no two teach the same calls, and a template that knows none
drops them in silence. A template without a system turn gets the same words at the head of the user turn.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from finemem_jax.config import PromptConfig, UserError, resolve
from finemem_jax.env import operations, thoughts
from finemem_jax.types import MemoryItem, Messages, Operation, ToolSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS = "finemem_jax.prompts"
_TAIL = 16  # tokens; enough for a tag and the blanks behind it in any tokenizer


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a chat template shows what a prompt says."""

    tools_by_template: bool = False  # the template lists the tools itself; else the codec's words describe them
    has_system_turn: bool = True  # else the system text heads the user turn


def render(
    tokenizer: PreTrainedTokenizerBase,
    specs: Sequence[ToolSpec],
    chunk: str,
    items: Sequence[MemoryItem],
    cfg: PromptConfig,
    *,
    max_operations: int,
    question: str = "",
    notice: str = "",
    pinned: Collection[str] = (),
) -> tuple[tuple[int, ...], tuple[MemoryItem, ...]]:
    """Token ids of the prompt, and the items that are really in it.

    items: those in view, oldest first; while the prompt is longer than `cfg.max_prompt_tokens` the oldest ones
    leave it (half of what is left at a time), but for those of the kinds `pinned`. question: what the policy may know
    of what it will be asked. notice: what memory tells its writer. Raises UserError when the chunk alone, with what is
    pinned, does not fit.
    """
    layout = find_layout(tokenizer, specs, cfg)
    shown = list(items)
    while True:
        messages = conversation(
            specs, chunk, shown, cfg, max_operations=max_operations, question=question, notice=notice, layout=layout
        )
        tokens = apply_template(tokenizer, messages, specs if layout.tools_by_template else (), cfg, tokenize=True)
        if len(tokens) <= cfg.max_prompt_tokens:
            return tuple(tokens), tuple(shown)
        loose = [item for item in shown if item.kind not in pinned]
        if not loose:
            beside = " beside what is always shown of memory" if shown else ""
            raise UserError(
                f"a chunk makes a prompt of {len(tokens)} tokens{beside}, more than "
                f"config.prompt.max_prompt_tokens={cfg.max_prompt_tokens}: raise it, or build shorter chunks"
            )
        gone = {item.id for item in loose[: (len(loose) + 1) // 2]}
        shown = [item for item in shown if item.id not in gone]


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], cfg: PromptConfig
) -> tuple[int, ...]:
    """The ids of a prompt that names no tools."""
    return tuple(int(token) for token in apply_template(tokenizer, messages, (), cfg, tokenize=True))


def module(cfg: PromptConfig) -> Any:
    """The file in prompts/ of a config."""
    return resolve(PROMPTS, cfg.name)


def arranged(tokenizer: PreTrainedTokenizerBase, system: str, user: str, cfg: PromptConfig) -> list[dict[str, str]]:
    """The two texts as messages that the chat template takes."""
    if find_layout(tokenizer, (), cfg).has_system_turn:
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return [{"role": "user", "content": f"{system}\n\n{user}".strip()}]


def opens_thought(tokenizer: PreTrainedTokenizerBase, prompt_tokens: Sequence[int]) -> bool:
    """Whether the template opens a thought behind the messages, so that the model's text begins inside it."""
    tail = tokenizer.decode(list(prompt_tokens[-_TAIL:]), skip_special_tokens=False)
    return tail.rstrip().endswith(thoughts.OPEN)


def conversation(
    specs: Sequence[ToolSpec],
    chunk: str,
    items: Sequence[MemoryItem],
    cfg: PromptConfig,
    *,
    max_operations: int,
    question: str = "",
    notice: str = "",
    layout: Layout = Layout(),
) -> list[dict[str, str]]:
    """The messages of a turn. The default layout is for a server whose chat template is not known."""
    seen = {"question": question} if question else {}
    system, user = resolve(PROMPTS, cfg.name).messages(chunk, items, max_operations=max_operations, **seen)
    user = f"{user}\n\n{notice}" if notice else user
    if not layout.tools_by_template:
        system = f"{system}\n\n{resolve(operations.CODECS, cfg.codec).instructions(specs)}".strip()
    if layout.has_system_turn:
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return [{"role": "user", "content": f"{system}\n\n{user}".strip()}]


def find_layout(tokenizer: PreTrainedTokenizerBase, specs: Sequence[ToolSpec], cfg: PromptConfig) -> Layout:
    """How the tokenizer's chat template has to be given a prompt. Raises UserError where it renders none."""
    tools = tuple(
        (s.name, s.description, tuple(s.parameters.items()), s.optional, tuple(s.choices.items())) for s in specs
    )
    return _find_layout(tokenizer, str(tokenizer.chat_template), tools, cfg)


@functools.lru_cache(maxsize=16)  # the template is part of the key: a tokenizer's can be replaced
def _find_layout(tokenizer: PreTrainedTokenizerBase, template: str, tools: tuple, cfg: PromptConfig) -> Layout:
    specs = [
        ToolSpec(name, said, dict(given), optional, dict(choices)) for name, said, given, optional, choices in tools
    ]
    system, user = "What is said in the system turn.", "What is said in the user turn."
    try:
        shown = apply_template(tokenizer, _turns(system, user), (), cfg, tokenize=False)
    except Exception:  # templates refuse a system turn by raising, each in its own way
        shown = ""
    has_system_turn = system in shown and user in shown
    if resolve(PROMPTS, cfg.name).DESCRIBES_TOOLS:
        return Layout(False, has_system_turn)
    try:
        shown = apply_template(tokenizer, _turns("", user), specs, cfg, tokenize=False)
    except Exception:  # as above, over tools
        return Layout(False, has_system_turn)
    is_listed = all(spec.name in shown for spec in specs)
    return Layout(is_listed and resolve(operations.CODECS, cfg.codec).is_taught(shown), has_system_turn)


def _turns(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


@overload
def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    specs: Sequence[ToolSpec],
    cfg: PromptConfig,
    *,
    tokenize: Literal[True],
) -> list[int]: ...


@overload
def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    specs: Sequence[ToolSpec],
    cfg: PromptConfig,
    *,
    tokenize: Literal[False],
) -> str: ...


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    specs: Sequence[ToolSpec],
    cfg: PromptConfig,
    *,
    tokenize: bool,
) -> list[int] | str:
    """Messages in the tokenizer's chat template, ready for the reply: token ids, or text."""
    return tokenizer.apply_chat_template(
        messages,
        tools=[spec.schema() for spec in specs] or None,
        add_generation_prompt=True,
        enable_thinking=cfg.thinking,
        tokenize=tokenize,
        return_dict=False,
    )


# --------------------------------------------------------------------------------------------------------------
# Before the work
# --------------------------------------------------------------------------------------------------------------


def check(
    tokenizer: PreTrainedTokenizerBase,
    specs: Sequence[ToolSpec],
    cfg: PromptConfig,
    *,
    max_operations: int,
    names_items: bool = True,
    sees_question: bool = False,
) -> None:
    """Raises UserError unless a turn says all that it should and the codec reads what the turn asks for.

    names_items: operations name items by their ids. sees_question: a turn says what will be asked."""
    unfit = operations.unfit(cfg.codec, specs)
    if unfit:
        raise UserError(f"config.prompt.codec={cfg.codec} {unfit}; config.memory.name has {_names(specs)}")
    if names_items and not getattr(resolve(PROMPTS, cfg.name), "SHOWS_IDS", True):
        raise UserError(
            f"config.prompt.name={cfg.name} shows no ids of items, which {_names(specs)} of config.memory.name need"
        )
    where = f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
    chunk, item = "What is new in this chunk.", MemoryItem("#7", "What memory held before.", 0)
    question = "What will be asked at the end?" if sees_question else ""
    layout = find_layout(tokenizer, specs, cfg)
    try:
        messages = conversation(
            specs, chunk, [item], cfg, max_operations=max_operations, question=question, layout=layout
        )
    except TypeError as error:
        raise UserError(
            f"config.method.sees_question: messages() of prompts/{cfg.name}.py takes no question ({error})"
        ) from error
    try:
        shown = apply_template(tokenizer, messages, specs if layout.tools_by_template else (), cfg, tokenize=False)
    except Exception as error:  # whatever a template's own code raises
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{where} fails on a prompt: {reason}") from error
    said = {"the chunk": chunk, "the items of memory": item.text, "the question": question}
    said |= {"their ids": item.id} if names_items else {}
    if not layout.tools_by_template:  # some templates strip what they are given: line by line
        words = resolve(operations.CODECS, cfg.codec).instructions(specs)
        said["the tools"] = next((line for line in words.splitlines() if line.strip() not in shown), "")
    for what, text in said.items():
        if text not in shown:
            raise UserError(f"{where} does not print {what}: config.model.tokenizer needs one that prints messages")
    render(tokenizer, specs, "", [], cfg, max_operations=max_operations, question=question)
    _check_codec(tokenizer, specs, cfg)


def _names(specs: Sequence[ToolSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _check_codec(tokenizer: PreTrainedTokenizerBase, specs: Sequence[ToolSpec], cfg: PromptConfig) -> None:
    """One call of every tool, through the tokenizer and back."""
    example = tuple(Operation(spec.name, spec.example("It is so.")) for spec in specs)
    tokens = tokenizer.encode(operations.emit(example, cfg.codec, specs), add_special_tokens=False)
    text = tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if operations.parse(text, specs, codec=cfg.codec) != example:
        raise UserError(
            f"config.prompt.codec={cfg.codec}: the tokenizer of {tokenizer.name_or_path or 'the model'} changes calls "
            f"so that they cannot be read, it makes {' '.join(text.split())[:80]!r} of them; choose another codec"
        )
