"""A served policy reads the prompt that was rendered for it, or nothing at all."""

from __future__ import annotations

import pytest

from finemem_jax.chat.policy import PolicyServer, open_policy_server
from finemem_jax.config import AnswererConfig, UserError, resolve
from finemem_jax.env import tokenizer as tokenizers
from tests.fake_server import FakeServer

MESSAGES = ({"role": "system", "content": ""}, {"role": "user", "content": "the chunk"})
TEMPLATE = {"tools": [{"type": "function"}], "chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.build_tiny(resolve("finemem_jax.benchmarks", "diary").sentences())


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return tuple(tokenizer.encode("<|im_start|>user\nthe chunk<|im_end|>\n", add_special_tokens=False))


def opened(server, tokenizer, tokens) -> PolicyServer:
    server.reply = lambda question: "done"
    cfg = AnswererConfig(name="endpoint", url=server.url, model="p", backoff_seconds=0.0)
    return open_policy_server(cfg, tokenizer, tokens, MESSAGES, TEMPLATE)


def reads(tokenizer, *, ids=None, text=None, messages=None):
    """How many tokens a server reads of each kind of request; None: it does not take it. text: more than are in it."""

    def count(body):
        if "messages" in body:
            return messages
        if isinstance(body["prompt"], list):
            return ids and len(body["prompt"])
        return None if text is None else len(tokenizer.encode(body["prompt"], add_special_tokens=False)) + text

    return count


@pytest.mark.parametrize(
    ("kinds", "form"),
    [
        ({"ids": True, "text": 0, "messages": 5}, "tokens"),
        ({"text": 0, "messages": 5}, "text"),
        ({"text": 1, "messages": 5}, "bare"),  # one that puts a token of its own before the text
    ],
)
def test_the_rendered_prompt_is_sent_in_the_first_form_that_is_read_whole(tokenizer, tokens, kinds, form):
    with FakeServer() as server:
        server.count = reads(tokenizer, **kinds)
        policy = opened(server, tokenizer, tokens)
        assert policy.form == form and policy.submit(tokens, MESSAGES).result().text == "done"
        text = tokenizer.decode(list(tokens))
        sent = {"tokens": list(tokens), "text": text, "bare": text.removeprefix("<|im_start|>user\n")}[form]
        assert server.bodies[-1]["prompt"] == sent and "tools" not in server.bodies[-1]


def test_messages_go_with_all_that_their_rendering_needs(tokenizer, tokens):
    with FakeServer() as server:
        server.count = reads(tokenizer, messages=len(tokens))
        policy = opened(server, tokenizer, tokens)
        assert policy.form == "messages" and policy.submit(tokens, MESSAGES).result().prompt_tokens == len(tokens)
        assert server.bodies[-1]["messages"] == list(MESSAGES)
        assert {name: server.bodies[-1][name] for name in TEMPLATE} == TEMPLATE


@pytest.mark.parametrize("count", [959, 0])
def test_a_server_that_renders_another_prompt_is_refused_in_one_line(tokenizer, tokens, count):
    with FakeServer() as server:
        server.count = reads(tokenizer, messages=count)
        with pytest.raises(UserError, match=f"{count} tokens|does not say") as refused:
            opened(server, tokenizer, tokens)
    assert f"of a prompt of {len(tokens)} tokens" in str(refused.value) and "\n" not in str(refused.value)


def test_a_prompt_that_is_read_otherwise_later_ends_the_evaluation(tokenizer, tokens):
    with FakeServer() as server:
        server.count = reads(tokenizer, ids=True)
        policy = opened(server, tokenizer, tokens)
        server.count = lambda body: 7  # cut off by a limit of the server's, say
        with pytest.raises(UserError, match="reads 7 tokens of a prompt of"):
            policy.submit((*tokens, *tokens), MESSAGES).result()


@pytest.mark.parametrize("how", ["401", "400", "not json"])
def test_a_server_that_answers_nothing_is_refused_with_its_reason(tokenizer, tokens, how):
    with FakeServer(lambda question, attempt: how) as server, pytest.raises(UserError) as refused:
        opened(server, tokenizer, tokens)
    assert "\n" not in str(refused.value) and server.url in str(refused.value)
