"""A served policy reads the prompt that was rendered for it, or nothing at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finemem_jax.chat.policy import PolicyServer, open_policy_server
from finemem_jax.config import AnswererConfig, MethodConfig, UserError, resolve
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.environment import all_questions, play
from finemem_jax.rollouts.by_chat import play_by_chat
from finemem_jax.types import ANSWER, WRITE
from tests import fakes
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


def test_a_limit_of_its_own_goes_with_a_prompt(tokenizer, tokens):
    """It is a part of what is asked: a reply under another limit is another reply."""
    with FakeServer() as server:
        server.count = reads(tokenizer, ids=True)
        policy = opened(server, tokenizer, tokens)
        server.bodies.clear()
        replies = [policy.submit(tokens, MESSAGES, limit).result() for limit in (7, 0, 9, 7)]
        assert [body["max_tokens"] for body in server.bodies] == [7, AnswererConfig().max_tokens, 9]
    assert replies[0] == replies[3] and len({reply.key for reply in replies}) == 3


def test_an_answer_of_a_served_policy_has_the_limit_that_it_has_in_the_engine(env):
    """With answers of its own the policy writes under one limit and answers under another."""
    env = replace(env, method=MethodConfig(answers="policy", answer_tokens=5))
    episode = fakes.episode(["milk is at the shop", "the shop is open"], [("where is milk?", "shop")])
    asked = all_questions(episode)
    cut = "shop " * env.method.answer_tokens
    with FakeServer() as server:
        server.reply = lambda question: cut
        settings = AnswererConfig(url=server.url, model="p", max_tokens=env.prompt.max_completion_tokens)
        game = play(env, episode, asked, lambda requests: [])
        (finish,) = play_by_chat(PolicyServer(settings, env.tokenizer, ""), env, [(episode, asked, game)])
        limits = [body["max_tokens"] for body in server.bodies]
    assert limits == [env.prompt.max_completion_tokens] * 2 + [5]
    steps = finish().steps
    assert [step.role for step in steps] == [WRITE, WRITE, ANSWER]
    assert [step.completion.finish for step in steps] == ["stop", "stop", "length"]
