"""A policy behind a server reads the prompt it was trained on, or the evaluation is refused.

Where the policy's own tokenizer is known, its prompts are rendered here and sent in the first of these forms that the
server takes and of which it reads as many tokens as were rendered:

| form     | sent                                                      | taken by                           |
|----------|-----------------------------------------------------------|------------------------------------|
| tokens   | POST /completions, the token ids                          | vLLM, SGLang                       |
| text     | POST /completions, the rendered text                      | transformers serve                 |
| bare     | the same without its first token, which the server adds   | the same, where the tokenizer does |
| messages | POST /chat/completions, rendered by the server            | servers without /completions       |

Every later reply is held against the count too. Where the tokenizer is not known (a hosted model), messages are sent,
with the tools and the format described in the system turn, and nothing can be checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from finemem_jax.chat.asked_once import AskedOnce
from finemem_jax.chat.http import CHAT, COMPLETIONS, HttpChat, Wire
from finemem_jax.config import AnswererConfig, PromptConfig, UserError
from finemem_jax.env import prompts
from finemem_jax.types import Messages, Reply, ToolSpec, pass_on

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMS = ("tokens", "text", "bare", "messages")


class PolicyServer:
    """The policy as a server has it. form: one of FORMS; "" = messages whose rendering is not known."""

    def __init__(self, cfg: AnswererConfig, tokenizer: PreTrainedTokenizerBase, form: str):
        http = HttpChat(cfg, _wire(form))
        self.chat = AskedOnce(http, [*http.identity, form], cfg.cache, cfg.max_cache_bytes)
        self.form, self._tokenizer, self._url = form, tokenizer, cfg.url

    def submit(self, tokens: Sequence[int], messages: Messages, max_tokens: int = 0) -> Future[Reply]:
        """Asks for the completion of a prompt, given as it was rendered and as messages. The future raises UserError
        when the server reads another number of tokens.

        max_tokens: limit of the completion; 0 = that of the settings."""
        sent = in_form(self.form, self._tokenizer, tokens, messages)
        # The form's wire takes what is sent
        (asked,) = self.chat.submit([sent], max_tokens=max_tokens)  # type: ignore[list-item]
        future: Future[Reply] = Future()
        pass_on(asked, future, lambda reply: self._checked(reply, len(tokens)))
        return future

    def _checked(self, reply: Reply, expected: int) -> Reply:
        if self.form and reply.text is not None and reply.prompt_tokens != expected:
            raise UserError(_mismatch(self._url, [reply.prompt_tokens], expected))
        return reply


def in_form(form: str, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], messages: Messages) -> object:
    """What is sent of a prompt."""
    if form == "tokens":
        return tuple(tokens)
    if form in ("text", "bare"):
        sent = list(tokens)[form == "bare" :]
        return tokenizer.decode(sent, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return messages


_TRIAL = "Anna moved to Oslo."  # a chunk, for a first prompt


def open_server_of(
    cfg: AnswererConfig,
    tokenizer: PreTrainedTokenizerBase,
    specs: Sequence[ToolSpec],
    prompt: PromptConfig,
    max_operations: int,
) -> PolicyServer:
    """The server of a policy whose tokenizer and prompts are known: it must read the very prompt that is rendered with
    them (`open_policy_server`)."""
    layout = prompts.find_layout(tokenizer, specs, prompt)
    tokens, _ = prompts.render(tokenizer, specs, _TRIAL, [], prompt, max_operations=max_operations)
    messages = prompts.conversation(specs, _TRIAL, [], prompt, max_operations=max_operations, layout=layout)
    template: dict[str, object] = {"chat_template_kwargs": {"enable_thinking": prompt.thinking}}
    if layout.tools_by_template:
        template["tools"] = [spec.schema() for spec in specs]
    return open_policy_server(cfg, tokenizer, tokens, messages, template)


def open_policy_server(
    cfg: AnswererConfig,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[int],
    messages: Messages,
    template: Mapping[str, object],
) -> PolicyServer:
    """The server in the first form in which it reads all of a prompt, given as it was rendered and as messages.

    template: what a request with messages says beside them to have them rendered so: tools, the template's switches.
    Raises UserError, one line, where there is no such form."""
    found: list[int] = []
    refused: UserError | None = None
    problem = ""
    for form in FORMS:
        settings = cfg
        if form == "messages":
            settings = replace(cfg, extra=json.dumps({**template, **(json.loads(cfg.extra) if cfg.extra else {})}))
        try:
            http = HttpChat(replace(settings, max_tokens=1, retries=0), _wire(form), is_muted=True)
            (asked,) = http.submit([in_form(form, tokenizer, tokens, messages)])  # type: ignore[list-item]  # likewise
            reply = asked.result()
        except UserError as error:  # no such path; if it is the key, the next form is refused too
            refused = error
            continue
        if reply.text is None:
            problem = reply.problem
        elif reply.prompt_tokens == len(tokens):
            return PolicyServer(settings, tokenizer, form)
        else:
            found.append(reply.prompt_tokens)
    if found:
        raise UserError(_mismatch(cfg.url, found, len(tokens)))
    raise refused or UserError(f"{cfg.url} completes no prompt of {cfg.model}: {problem}")


def _wire(form: str) -> Wire:
    return COMPLETIONS if form in ("tokens", "text", "bare") else CHAT


def _mismatch(url: str, found: Sequence[int], expected: int) -> str:
    read = f"reads {' or '.join(map(str, dict.fromkeys(found)))} tokens" if any(found) else "does not say what it reads"
    return (
        f"{url} {read} of a prompt of {expected} tokens: it must serve the model of config.model.path, with that "
        "folder's tokenizer and chat template. For a model whose tokenizer is not at hand give --config.model.path= "
        "and any config.model.tokenizer to count with"
    )
