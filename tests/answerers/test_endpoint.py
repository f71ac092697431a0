"""The endpoint answerer against a server that really fails: everything is answered, or reported missing."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

from finemem_jax import config
from finemem_jax.answerers._model import open_endpoint
from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.types import AnswererDown, AnswerRequest, Retrieved
from tests.fake_server import FakeServer
from tests.ports import reserve_port


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


@pytest.mark.parametrize(
    ("said", "text", "cited"),
    [
        ("Orlov\nUsed: 1", "Orlov", (0,)),
        ("<think>2?</think>Orlov\n\n used: items 2 and 1.", "Orlov", (0, 1)),
        ("Used: 9, 0, -3, 99999999999999999999", "", (2,)),  # a minus is no part of a number
        ("Orlov", "Orlov", ()),
        ("Used: soap", "", ()),
    ],
)
def test_an_answer_that_says_what_it_stands_in_is_read_without_that(said, text, cited):
    items = tuple(Retrieved(f"#{i}", 0, (0,), f"item {i}", 1.0) for i in range(3))
    with FakeServer() as server:
        server.reply = lambda question: said
        answerer = create(settings(server))
        (asked,) = answerer.submit([AnswerRequest("who?", items, cites=True)])
        answerer.settle()
        assert (asked.result(timeout=300).text, asked.result().cited) == (text, cited)
        (plain,) = answerer.submit([AnswerRequest("who?", items)])
        assert plain.result(timeout=300).text.endswith(said[-4:]) and plain.result().cited is None
    assert ["Used:" in body["messages"][0]["content"] for body in server.bodies] == [True, False]


def test_answerers_share_a_thread_and_leave_no_connection_behind():
    def threads(name):
        return [thread for thread in threading.enumerate() if name in thread.name]

    with FakeServer() as server:
        before = set(threads("process_request_thread"))
        for number in range(20):
            assert create(settings(server)).answer(requests(f"q{number}", f"r{number}")) != [None, None]
        gc.collect()
        handlers = set(threads("process_request_thread")) - before  # of the server: one for each connection
        for thread in handlers:
            thread.join(300)
        assert not any(thread.is_alive() for thread in handlers)
        assert len(server.seen) == 40 and len(threads("http")) == 1


ASKED_IN_A_FORK = """
import os, sys
from finemem_jax.answerers._model import open_endpoint
from finemem_jax.config import AnswererConfig
cfg = AnswererConfig(name="endpoint", url=sys.argv[1], model="m")
asked = lambda text: open_endpoint(cfg).submit([[{"role": "user", "content": text}]])[0].result(timeout=300).text
assert asked("first") == "re: first"
child = os.fork()
if not child:
    os._exit(asked("second") != "re: second")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_asks_in_a_thread_of_its_own():
    with FakeServer() as server:
        server.reply = lambda question: f"re: {question}"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", ASKED_IN_A_FORK, server.url], env=environment, timeout=600)
    assert done.returncode == 0


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
        answerer = create(settings(server, timeout_seconds=1.0, retries=10_000))
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
    server = FakeServer(port=reserve_port())
    answerer = create(settings(server, patience_seconds=300.0))
    futures = answerer.submit(requests("a", "b"))
    while not answerer.chat.chat.traffic.retries:  # until it has been looked for
        assert not any(future.done() for future in futures)
        time.sleep(0.01)
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
        {"url": "http://host:port/v1"},
        {"url": "http://ho st/v1"},
        {"url": "http://host/v1?key=secret"},
        {"model": ""},
        {"extra": "[1]"},
        {"extra": "{"},
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(values):
    with pytest.raises(UserError, match=r"config\.answerer") as error:
        open_endpoint(AnswererConfig(**({"name": "endpoint", "url": "http://h/v1", "model": "m"} | values)))
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_a_damaged_cache_is_set_aside_named_and_answered_anew(tmp_path, capfd):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with FakeServer() as server:
        cfg = settings(server, cache=str(path))
        assert create(cfg).answer(requests("a")) == create(cfg).answer(requests("a")) == ["re: a"]
        assert len(server.seen) == 1
    assert (tmp_path / "answers.sqlite.damaged").read_bytes() == b"no database at all" * 100
    assert "answers.sqlite.damaged" in capfd.readouterr().err


def test_a_reply_beyond_its_bound_is_missing_and_never_read_whole(tmp_path, capfd):
    with FakeServer() as server:
        server.reply = lambda question: "x" * (5_000_000 if question == "long" else 5)
        answerer = create(settings(server, retries=1, cache=str(tmp_path / "answers.sqlite")))
        replies = [future.result() for future in answerer.submit(requests("long", "short"))]
    assert [reply.text for reply in replies] == [None, "xxxxx"]
    assert "max_reply_bytes" in replies[0].problem and "max_reply_bytes" in capfd.readouterr().err
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000


@pytest.mark.parametrize(
    ("text", "finish", "answer"),
    [
        ("<think>hm", "length", None),
        ("<think>hm", "stop", None),  # a server that does not say that it cut
        ("<think>hm</think>", "length", None),
        ("", "length", None),
        (None, "length", None),  # the server's parser keeps the thought to itself
        ("<think>hm</think>", "stop", ""),  # thought to the end, and nothing to say: an answer, and a wrong one
        ("", "stop", ""),
        ("<think>hm</think> Orlov, who", "length", "Orlov, who"),
    ],
)
def test_what_was_cut_off_before_it_answered_is_missing_not_wrong(tmp_path, capfd, text, finish, answer):
    with FakeServer() as server:
        server.reply, server.finish = lambda question: text, finish
        cfg = settings(server, cache=str(tmp_path / "answers.sqlite"))
        for _ in range(2):
            answerer = create(cfg)
            (future,) = answerer.submit(requests("a"))
            assert future.result().text == answer
            assert ("chat_template_kwargs" in future.result().problem) == (answer is None)
        assert answerer.spent()["missing"] == (answer is None)
        assert len(server.seen) == (2 if answer is None else 1)  # asked once a run, and kept where it is an answer
    assert ("chat_template_kwargs" in capfd.readouterr().err) == (answer is None)


@pytest.mark.parametrize("key", ['sk-se/cret+"1"', "token-abc123"])
def test_a_server_that_echoes_the_key_gets_it_into_no_reply_file_or_line(tmp_path, monkeypatch, capfd, key):
    monkeypatch.setenv("SOME_KEY", key)
    shapes = (key, json.dumps(key)[1:-1], key.replace("/", "\\/"), urllib.parse.quote(key, safe=""))
    with FakeServer() as server:
        server.reply = lambda question: f"you sent {question} {' '.join(shapes)}"
        answerer = create(settings(server, key_variable="SOME_KEY", cache=str(tmp_path / "answers.sqlite")))
        (text,) = answerer.answer(requests("a"))
        server.behave = lambda question, attempt: "401"
        server.error = "x" * 190 + key + "y" * 300  # across the place where the line is cut off
        with pytest.raises(UserError, match="SOME_KEY") as error:
            answerer.answer(requests("b"))
    assert text == "you sent a (key) (key) (key) (key)"
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    told = str(error.value) + "".join(capfd.readouterr())
    assert "(key)"[:5] in told or "x" * 190 in told
    for shape in (*shapes, key[:7]):
        assert shape.encode() not in kept and shape not in told


def test_a_key_that_is_no_secret_may_be_an_answer(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "none")
    with FakeServer() as server:
        server.reply = lambda question: "none"
        assert create(settings(server, key_variable="SOME_KEY")).answer(requests("a")) == ["none"]


def test_escapes_in_a_servers_error_do_not_reach_the_terminal():
    with FakeServer(lambda question, attempt: "401") as server:
        server.error = "\x1b[2J\x1b]0;title\x07 no"
        with pytest.raises(UserError) as error:
            create(settings(server)).answer(requests("b"))
    assert "\x1b" not in str(error.value) and "\\x1b[2J" in str(error.value)


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret\n\nX-Other: 1")
    with pytest.raises(UserError, match="SOME_KEY") as error:
        open_endpoint(AnswererConfig(url="http://h/v1", model="m", key_variable="SOME_KEY"))
    assert "sk-secret" not in str(error.value)


def test_hundreds_of_questions_with_random_faults_are_all_answered():
    import random

    rng = random.Random(7)
    plan = {f"q{i}": rng.choice(["ok"] * 6 + ["500", "reset", "not json", "short"]) for i in range(300)}
    with FakeServer(lambda question, attempt: plan[question] if attempt == 0 else "ok") as server:
        answerer = create(settings(server, concurrency=16, backoff_seconds=0.001))
        assert answerer.answer(requests(*plan)) == [f"re: {question}" for question in plan]
    assert len(server.seen) == 300 + sum(how != "ok" for how in plan.values())
