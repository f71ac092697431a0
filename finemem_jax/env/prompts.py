"""What the policy reads at a step: instructions and tools, the chunk, the items of memory in view.

What is shared comes first, for the sake of prefix reuse: the system turn and the tools are the same in every
prompt, the chunk in all samples of a group at step t, the memory only while the samples have not diverged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from finemem_jax.config import PromptConfig, UserError
from finemem_jax.types import MemoryItem, ToolSpec

INSTRUCTIONS = """\
You maintain the long-term memory of an assistant. You read one new chunk of text at a time and never see it \
again; later, questions are answered from your memory alone, by searching it for the words of the question.

Write with tool calls, all of them in this one reply:
- Store each lasting fact, event, preference or labelled example as a short item that can be understood by itself \
(who, what, when). Keep labelled examples with their label.
- When the chunk supersedes an item that is listed below, update that item by its id instead of adding a second one.
- Delete items that turned out wrong. Leave small talk out. If nothing is worth keeping, skip.
You may write at most {max_operations} operations in this turn."""


_TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def render(
    tokenizer: PreTrainedTokenizerBase,
    specs: Sequence[ToolSpec],
    chunk: str,
    items: Sequence[MemoryItem],
    cfg: PromptConfig,
    *,
    max_operations: int,
) -> tuple[tuple[int, ...], tuple[MemoryItem, ...]]:
    """Token ids of the prompt, and the items that are really in it.

    items: those in view, oldest first; while the prompt is longer than `cfg.max_prompt_tokens` the oldest ones
    leave it (half of what is left at a time). Raises UserError when the chunk alone does not fit.
    """
    shown = list(items)
    while True:
        messages = _messages(chunk, shown, cfg, max_operations)
        tokens = tokenizer.apply_chat_template(
            messages,
            tools=[spec.schema() for spec in specs],
            add_generation_prompt=True,
            enable_thinking=cfg.thinking,
            tokenize=True,
            return_dict=False,
        )
        if len(tokens) <= cfg.max_prompt_tokens:
            return tuple(tokens), tuple(shown)
        if not shown:
            raise UserError(
                f"a chunk makes a prompt of {len(tokens)} tokens, more than "
                f"config.prompt.max_prompt_tokens={cfg.max_prompt_tokens}: raise it, or build shorter chunks"
            )
        shown = shown[(len(shown) + 1) // 2 :]


def conversation(
    specs: Sequence[ToolSpec], chunk: str, items: Sequence[MemoryItem], cfg: PromptConfig, *, max_operations: int
) -> list[dict[str, str]]:
    """The same prompt for a chat server: the tools stand in the system turn, in the words of Qwen's chat template, for
    not every server takes (or keeps) a `tools` field."""
    system, user = _messages(chunk, items, cfg, max_operations)
    tools = "\n".join(json.dumps(spec.schema(), ensure_ascii=False) for spec in specs)
    return [{"role": "system", "content": f"{system['content']}\n\n{_TOOLS.format(tools=tools)}".strip()}, user]


def _messages(chunk: str, items: Sequence[MemoryItem], cfg: PromptConfig, max_operations: int) -> list[dict[str, str]]:
    if cfg.name == "compact":
        # The key and the id are one token of the tiny tokenizer: the id of an item is then what follows its last word,
        # here and in an UPDATE, and looking it up is copying.
        lines = [json.dumps({"content": item.text, "id": item.id}, ensure_ascii=False) for item in items]
        memory = "\n".join(lines)
        user = f"<chunk>\n{chunk}\n</chunk>\n<memory>\n{memory}\n</memory>"
        return [{"role": "system", "content": ""}, {"role": "user", "content": user}]
    memory = "\n".join(f"[{item.id}] {item.text}" for item in items) or "Empty."
    user = f"<chunk>\n{chunk}\n</chunk>\n\nItems of memory you can update or delete by id:\n{memory}"
    system = INSTRUCTIONS.format(max_operations=max_operations)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
