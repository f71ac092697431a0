"""The endpoint answerer against a server that really fails: everything is answered, or reported missing."""

from __future__ import annotations

import sqlite3
import threading
import time

import pytest

from finemem_jax import config
from finemem_jax.answerers._model import open_endpoint
from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.types import AnswererDown, AnswerRequest, Retrieved
from tests.fake_server import FakeServer


def settings(server, **values) -> AnswererConfig:
    # Patient enough for a busy machine; where a limit is what is tested, the test sets it.
    quick = {"timeout_seconds": 60.0, "retries": 3, "backoff_seconds": 0.01, "patience_seconds": 300.0}
    return AnswererConfig(name="endpoint", url=server.url, model="m", **(quick | values))


def create(cfg):
    return config.resolve("finemem_jax.answerers", "endpoint").create(cfg)


def requests(*questions, text="Maya's dentist is Orlov"):
    return [AnswerRequest(question, (Retrieved("#1", 0, (0,), text, 1.0),)) for question in questions]


def test_answers_come_in_order_and_the_thought_is_not_part_of_them():
    with FakeServer() as server:
        has_company = threading.Event()

        def reply(question):  # nothing is answered until two are asked at once, however slow this machine is
            if server.most_at_once > 1:
                has_company.set()
            assert has_company.wait(300)
            return f"<think>hm</think> re: {question}"

        server.reply = reply
        questions = [f"q{i}" for i in range(50)]
        answerer = create(settings(server, concurrency=8))
        assert answerer.answer(requests(*questions)) == [f"re: {q}" for q in questions]
    assert 1 < server.most_at_once <= 8
    body = server.bodies[0]
    assert body["temperature"] == 0.1 and body["max_tokens"] == 512 and body["model"] == "m"
    assert "1. Maya's dentist is Orlov" in body["messages"][1]["content"]


FAULTS = ("429/1", "500", "503", "502", "reset", "not json", "short", "no choices", "two choices", "null")


def test_every_fault_is_survived():
    def behave(question, attempt):
        return "ok" if attempt else question

    with FakeServer(behave) as server:
        answerer = create(settings(server))
        assert answerer.answer(requests(*FAULTS)) == [f"re: {fault}" for fault in FAULTS]
    assert len(server.seen) == 2 * len(FAULTS)
    sent = [t for t, question in zip(server.times, server.seen, strict=True) if question == "429/1"]
    assert sent[1] - sent[0] >= 1.0  # Retry-After, though the backoff is a hundredth of it


def test_a_reply_that_drips_longer_than_the_timeout_is_asked_for_again():
    with FakeServer(lambda question, attempt: "ok" if attempt else "drip") as server:  # which takes 13 s
        answerer = create(settings(server, timeout_seconds=5.0, retries=20))
        assert answerer.answer(requests("a")) == ["re: a"]
    assert len(server.seen) >= 2  # on a busy machine a whole reply may take longer than that, too


def test_what_never_works_is_missing_with_its_reason_and_the_rest_is_answered():
    faults = ("500", "reset", "not json", "short", "400")

    with FakeServer(lambda question, attempt: question if question in faults else "ok") as server:
        answerer = create(settings(server))
        replies = [future.result() for future in answerer.submit(requests("a", *faults, "b"))]
    assert [reply.text for reply in replies] == ["re: a", None, None, None, None, None, "re: b"]
    assert all(reply.problem for reply in replies[1:-1]) and replies[1].problem == "HTTP 500"
    *tries, of_400 = (server.seen.count(fault) for fault in faults)
    # an attempt over a kept connection that the server has just closed fails before the server sees it
    assert all(2 <= n <= 4 for n in tries) and of_400 == 1  # 400 is not tried again
    assert answerer.chat.chat.traffic.missing == 5


def test_identical_questions_are_asked_once_and_a_second_run_costs_no_calls(tmp_path):
    with FakeServer() as server:
        cfg = settings(server, cache=str(tmp_path / "answers.sqlite"), price_prompt=2.0, price_completion=3.0)
        first = create(cfg)
        assert first.answer(requests("a", "b", "a", "a")) == ["re: a", "re: b", "re: a", "re: a"]
        assert first.answer(requests("b")) == ["re: b"]
        assert sorted(server.seen) == ["a", "b"]
        second = create(cfg)
        replies = [future.result() for future in second.submit(requests("b", "a"))]
        assert [reply.text for reply in replies] == ["re: b", "re: a"] and len(server.seen) == 2
        assert replies[0].prompt_tokens == 10 and replies[0].completion_tokens == 3  # what they cost, then
        assert second.chat.hits == 2 and second.spent()["calls"] == second.spent()["cost"] == 0
        assert first.spent() == {
            "calls": 2,
            "from_cache": 3,
            "missing": 0,
            "prompt_tokens": 20,
            "completion_tokens": 6,
            "cost": (20 * 2.0 + 6 * 3.0) / 1e6,
        }
        create(settings(server, cache=cfg.cache, temperature=0.7)).answer(requests("a"))
        create(cfg).answer(requests("a", text="another item"))
        assert len(server.seen) == 4  # other settings, other items: other questions


def test_a_missing_answer_is_asked_again_by_the_next_run(tmp_path):
    with FakeServer(lambda question, attempt: "500" if attempt == 0 else "ok") as server:
        cfg = settings(server, retries=0, cache=str(tmp_path / "answers.sqlite"))
        assert create(cfg).answer(requests("a")) == [None]
        assert create(cfg).answer(requests("a")) == ["re: a"]


def test_a_server_that_is_away_for_a_while_is_waited_for_and_one_that_stays_away_is_given_up():
    with FakeServer() as server:
        pass
    answerer = create(settings(server, patience_seconds=300.0))
    futures = answerer.submit(requests("a", "b"))
    time.sleep(0.3)
    with server:
        assert [future.result(timeout=300).text for future in futures] == ["re: a", "re: b"]
    answerer = create(settings(server, patience_seconds=0.3, concurrency=1))
    futures = answerer.submit(requests("c", "d", "e"))
    for future in futures:
        with pytest.raises(AnswererDown, match="patience_seconds"):
            future.result(timeout=300)


def test_waiting_requests_are_sent_so_that_common_beginnings_follow_each_other():
    with FakeServer() as server:
        answerer = create(settings(server, concurrency=1))
        answerer.answer([request for q in "abc" for text in ("x", "y") for request in requests(q, text=text)])
        texts = [body["messages"][1]["content"] for body in server.bodies]
    assert texts == sorted(texts)


def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch, capfd):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with FakeServer(lambda question, attempt: "ok" if question == "a" else "401") as server:
        server.reply = lambda question: "fine"
        answerer = create(settings(server, key_variable="SOME_KEY"))
        assert answerer.answer(requests("a")) == ["fine"]
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
        with pytest.raises(UserError, match="SOME_KEY") as error:
            answerer.answer(requests("b", "c"))
    assert "sk-secret" not in str(error.value) and "sk-secret" not in "".join(capfd.readouterr())


def test_any_text_can_be_asked_and_kept(tmp_path):
    strange = "\ud800 \x00 é 🙂"
    with FakeServer() as server:
        cfg = settings(server, cache=str(tmp_path / "answers.sqlite"))
        first = create(cfg).answer(requests(strange))
        assert first == ["re: " + strange.replace("\ud800", "\ufffd")]
        assert create(cfg).answer(requests(strange)) == first
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"url": ""},
        {"url": "localhost:8000"},
        {"url": "http://me:secret@host/v1"},
        {"model": ""},
        {"extra": "[1]"},
        {"extra": "{"},
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(values):
    with pytest.raises(UserError, match=r"config\.answerer") as error:
        open_endpoint(AnswererConfig(**({"name": "endpoint", "url": "http://h/v1", "model": "m"} | values)))
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_a_damaged_cache_is_named(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with FakeServer() as server, pytest.raises((UserError, sqlite3.Error), match=r"answers\.sqlite"):
        create(settings(server, cache=str(path)))


def test_hundreds_of_questions_with_random_faults_are_all_answered():
    import random

    rng = random.Random(7)
    plan = {f"q{i}": rng.choice(["ok"] * 6 + ["500", "reset", "not json", "short"]) for i in range(300)}
    with FakeServer(lambda question, attempt: plan[question] if attempt == 0 else "ok") as server:
        answerer = create(settings(server, concurrency=16, backoff_seconds=0.001))
        assert answerer.answer(requests(*plan)) == [f"re: {question}" for question in plan]
    assert len(server.seen) == 300 + sum(how != "ok" for how in plan.values())
