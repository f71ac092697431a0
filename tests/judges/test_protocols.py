"""Each judge's protocol: the label it was given is the label it reads, in every format; anything else is no verdict."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax import config
from finemem_jax.chat.judge import ModelJudge, Panel
from finemem_jax.env import scoring
from finemem_jax.types import JudgeRequest
from tests.fakes import EchoChat
from tests.judges.hand_labelled import CASES

NAMES = config.plugins("finemem_jax.judges")

# What a judge that is right calls the hand-labelled answers.
WORDS = {
    "ours": {"right": "yes", "false": "no", "silent": "no"},
    "longmemeval": {"right": "yes", "false": "no", "silent": "no"},
    "locomo_mem0": {"right": "CORRECT", "false": "WRONG", "silent": "WRONG"},
    "convomem": {"right": "RIGHT", "false": "WRONG", "silent": "WRONG"},
    "halumem": {"right": "Correct", "false": "Hallucination", "silent": "Omission"},
    "beam": {"right": "1", "false": "0", "silent": "0"},
}
FIELDS = {"locomo_mem0": "label", "halumem": "evaluation_result", "beam": "score"}


def protocol(name):
    return config.resolve("finemem_jax.judges", name)


def formats(name, word):
    """The label in every way that the protocol's judge may write it."""
    bare = [word, f" {word}.\n", f"<think>yes no right wrong {{}} </think>{word}"]
    if name != "beam":
        bare += [word.lower(), f"**{word.upper()}**"]
    if name not in FIELDS:
        return [*bare, f"{word}, it says the same."]
    given = json.dumps({FIELDS[name]: word})
    fields = [given, f"```json\n{given}\n```", f"It names both sides and {{is}} sound.\n{given}", f"{given} {given}"]
    number = [json.dumps({"reason": "x", FIELDS[name]: float(word)})] if name == "beam" else []
    return [*bare, *fields, json.dumps({"why": {"x": 1}, FIELDS[name]: word.lower()}, indent=1), *number]


def request_of(case):
    return JudgeRequest(case.question, (case.gold,), case.answer, case.kind)


def test_comparing_words_fails_on_the_hand_labelled_set():
    assert len(CASES) >= 60 and len(set(CASES)) == len(CASES)
    assert {case.label for case in CASES} == {"right", "false", "silent"}
    for metric in ("substring_match", "token_f1", "exact_match", "abstention"):
        called = [scoring.score(metric, case.answer, (case.gold,)) >= 0.5 for case in CASES]
        hits = sum(said == (case.label == "right") for said, case in zip(called, CASES, strict=True))
        assert hits / len(CASES) < 0.6  # "wrong" for all of them has as many
    right = [case for case in CASES if case.label == "right" and case.kind != "abstention"]
    assert all(scoring.substring_match(case.answer, (case.gold,)) == 0.0 for case in right)


@pytest.mark.parametrize("name", NAMES)
def test_every_label_is_read_in_every_format(name):
    for case in CASES:
        word, request = WORDS[name][case.label], request_of(case)
        asked = protocol(name).conversations(request)
        text = asked[0][-1]["content"]
        assert len(asked) == 1 and all(said in text for said in (case.question, case.gold, case.answer))
        for reply in formats(name, word):
            verdict = protocol(name).verdict([reply], request)
            assert verdict.score == (case.label == "right"), (reply, verdict)
            assert verdict.label.lower() == word.lower()


@pytest.mark.parametrize("name", NAMES)
def test_both_labels_or_none_are_no_verdict(name):
    words = sorted(set(WORDS[name].values()))
    both = f"{words[0]} … on second thought {words[1]}"
    replies = [None, "", "certainly", both, "<think>" + words[0], "knowing, yesterday, rightful, incorrectly, 11"]
    if name in FIELDS:
        replies += [json.dumps({FIELDS[name]: a}) + json.dumps({FIELDS[name]: b}) for a, b in itertools.pairwise(words)]
        replies += [json.dumps({FIELDS[name]: words}), json.dumps({"other": words[0]}), '{"' + FIELDS[name] + '": ']
    for reply in replies:
        verdict = protocol(name).verdict([reply], request_of(CASES[0]))
        assert (verdict.score, verdict.label) == (None, ""), reply


@given(st.text() | st.text(alphabet='{}":,[] yesnorightwrong012.', max_size=60))
def test_no_reply_is_an_error(reply):
    for name in NAMES:
        for task in protocol(name).TASKS:
            score = protocol(name).verdict([reply], JudgeRequest("q", ("a",), "b", task=task)).score
            assert score is None or 0.0 <= score <= 1.0


def test_hostile_replies_are_read_in_bounded_time():
    """Each is a megabyte; a reading that is quadratic would not end."""
    for hostile in ('{"a":' * 200_000, "{" * 10**6, "<think>" * 150_000, "yes " * 250_000, '{"a": "' + "\\" * 10**6):
        for name in NAMES:
            protocol(name).verdict([hostile], request_of(CASES[0]))


def test_types_and_categories_have_instructions_of_their_own():
    def instructions(name, **fields):
        return protocol(name).conversations(JudgeRequest("q", ("a",), "b", **fields))[0][0]["content"]

    kinds = ("", "temporal-reasoning", "knowledge-update", "single-session-preference", "abstention")
    assert len({instructions("longmemeval", kind=kind) for kind in kinds}) == 5
    sources = ("user", "changing", "abstention", "preference", "implicit_connection")
    assert len({instructions("convomem", source=f"convomem_{name}_evidence") for name in sources}) == 5
    assert len({instructions("halumem", task=task) for task in protocol("halumem").TASKS}) == 4
    assert instructions("locomo_mem0", kind="abstention") != instructions("locomo_mem0")


def test_a_rubric_is_graded_item_by_item():
    request = JudgeRequest("q", ("gold",), "the reply", rubric=("says A", "says B", "not C"))
    asked = protocol("beam").conversations(request)
    assert [item in asked[i][1]["content"] for i, item in enumerate(request.rubric)] == [True] * 3
    grades = ['{"score": 1}', '{"score": 0.5}', '{"score": "0"}']
    assert protocol("beam").verdict(grades, request).score == pytest.approx(0.5)
    assert protocol("beam").verdict(grades, request).label == "1 0.5 0"
    for lost in (None, '{"score": 0.7}', '{"score": 1} or {"score": 0}'):
        assert protocol("beam").verdict([*grades[:2], lost], request).score is None


@pytest.mark.parametrize(
    ("task", "reply", "expected"),
    [
        ("integrity", '{"score": 2}', (1.0, "2")),
        ("integrity", "1", (0.5, "1")),
        ("integrity", '{"score": "0"}', (0.0, "0")),
        ("integrity", '{"score": 3}', (None, "")),
        ("accuracy", '{"accuracy_score": 1, "is_included_in_golden_memories": true}', (0.5, "1 gold")),
        ("accuracy", '{"accuracy_score": "2", "is_included_in_golden_memories": "False"}', (1.0, "2 beyond")),
        ("accuracy", '{"accuracy_score": 2}', (None, "")),
        ("update", '{"evaluation_result": "Other"}', (0.0, "Other")),
        ("answer", '{"evaluation_result": "Other"}', (None, "")),
    ],
)
def test_what_halumem_asks_about_writing(task, reply, expected):
    request = JudgeRequest("a fact", ("gold",), "written", task=task, rubric=("user: hello",))
    verdict = protocol("halumem").verdict([reply], request)
    assert (verdict.score, verdict.label) == expected
    text = protocol("halumem").conversations(request)[0][1]["content"]
    assert "a fact" in text and ("user: hello" in text) == (task == "accuracy")


def test_a_panel_keeps_all_verdicts_and_the_first_counts():
    chats = {
        "ours": EchoChat(lambda text: "yes" if "black" in text else "no"),
        "locomo_mem0": EchoChat(lambda text: '{"label": "WRONG"}'),
    }
    panel = Panel([ModelJudge(chat, name, name=f"m {name}") for name, chat in chats.items()])
    requests = [request_of(case) for case in CASES[6:8]]
    futures, scores = panel.judge(requests), panel.submit(requests)
    assert not any(future.done() for future in futures)
    panel.settle()
    found = [future.result() for future in futures]
    assert [(v.score, v.judge) for v in found] == [(1.0, "m ours"), (0.0, "m ours")]
    assert [[(o.score, o.label, o.judge) for o in v.others] for v in found] == [[(0.0, "wrong", "m locomo_mem0")]] * 2
    assert [future.result() for future in scores] == [1.0, 0.0]


def test_a_protocol_that_needs_more_tokens_gets_them_and_unknown_tasks_another_file():
    given = []

    class Chat(EchoChat):
        def submit(self, conversations, *, max_tokens=0):
            given.append(max_tokens)
            return super().submit(conversations)

    for name, most, expected in (("ours", 16, 0), ("locomo_mem0", 16, 256), ("locomo_mem0", 512, 0)):
        ModelJudge(Chat(), name, max_tokens=most).judge([request_of(CASES[0])])
        assert given[-1] == expected
    chat = EchoChat(lambda text: '{"score": 2}' if text.startswith("Fact") else "yes")
    judge = ModelJudge(chat, "longmemeval")
    futures = judge.judge(
        [JudgeRequest("f", ("g",), "w", task="integrity"), JudgeRequest("f", ("g",), "w", task="write")]
    )
    judge.settle()
    assert [future.result().label for future in futures] == ["2", "yes"]
    with pytest.raises(config.UserError, match="no file of judges/ judges 'poems'"):
        judge.judge([JudgeRequest("q", ("a",), "b", task="poems")])
