"""The manager in somebody's agent: what it reads is kept once, with where it is from."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from finemem_jax import Manager
from finemem_jax.config import UserError
from finemem_jax.manager.store import Store
from finemem_jax.types import AnswererDown

SESSIONS = (
    ([{"role": "user", "content": "My sister Anna moved to Oslo."}, {"name": "Bo", "content": "Nice!"}], "2026-05-08"),
    ([{"role": "user", "content": "Anna now works as a baker in Bergen."}], "2026-06-01"),
    ([{"role": "user", "content": "I bought a red bike."}], "2026-06-03"),
)  # fmt: skip


@pytest.fixture
def make(folder, server, tmp_path):
    def make(**config):
        settings = {"folder": str(folder), "served_name": "m", "patience_seconds": 0.2, **config}
        return Manager(server.url, tmp_path / "memory.sqlite", settings)

    return make


def test_what_is_read_is_written_recalled_and_answered_with_where_it_is_from(make, server):
    with make() as manager:
        for messages, time in SESSIONS:
            written = manager.read(messages, time=time, source=f"chat of {time}", user="mina")
            assert written.parts == 1 and [change.verb for change in written.applied] == ["insert"] * len(messages)
        best, *_ = manager.recall("Where is Anna a baker?", user="mina")
        assert best.text == "[1 June 2026] user: Anna now works as a baker in Bergen."
        assert (best.source, best.said, best.turn, best.id) == ("chat of 2026-06-01", "2026-06-01", 1, "#3")
        assert best.time.endswith("+00:00") and best.score > 0
        assert len(manager.recall("Anna", k=1, user="mina")) == 1
        answered = manager.answer("Who lives in Bergen as a baker?", user="mina")
        assert answered.text in best.text and answered.items[0].id == best.id
        assert manager.recall("Where is Anna a baker?", user="jonas") == () and manager.users() == ["mina"]
        assert [change.verb for change in manager.history(user="mina")] == [
            "read", "insert", "insert", "read", "insert", "read", "insert"]  # fmt: skip
        assert [change.text for change in manager.history("#3", user="mina")] == [best.text]
    assert "[8 May 2026] user: My sister Anna moved to Oslo." in server.shown[-1]  # the items it was trained to see


def test_a_reading_that_was_cut_short_goes_on_and_nothing_is_kept_twice(make, server):
    """The server fails in the middle; then another process calls the same again."""
    text = "\n".join(f"Day {day} Anna saw {day} red birds, and then she went to the market again." for day in range(9))
    calls = iter(range(100))
    server.behave = lambda question, attempt: "400" if next(calls) == 3 else "ok"
    with make() as manager, pytest.raises(AnswererDown, match="nothing for a turn"):
        manager.read(text, source="diary", user="anna")
    with make() as manager:
        kept = len(manager.items(user="anna"))
        written = manager.read(text, source="diary", user="anna")
        assert written.known == 2 and 0 < kept < 9
        assert [item.text for item in manager.items(user="anna")] == text.splitlines()
        again = manager.read(text, source="diary", user="anna")
        assert (again.known, again.changes) == (written.parts, ())
        assert manager.read(text, user="anna").known == 0  # without a source it is read anew, and says nothing new
        assert len(manager.items(user="anna")) == 9


def test_a_turn_that_another_process_overtook_is_written_anew_on_what_is_there_then(make, server):
    with make() as one, make() as other:

        def overtake(text):
            if "red" in text.rpartition("<chunk>")[2] and not other.users():
                other.read("The bike is blue.", user="u")  # while `one` waits for its model

        server.hook = overtake
        one.read("The house is red.", user="u")
        assert [item.text for item in one.items(user="u")] == ["The bike is blue.", "The house is red."]
        assert [item.turn for item in other.items(user="u")] == [0, 1]
        assert "The bike is blue." in server.shown[-1]
        server.hook = lambda text: other.read(f"Noise {len(server.shown)}.", user="u") if "final" in text else None
        with pytest.raises(UserError, match="2 attempts"):
            make(tries=2).read("This is final.", user="u")


def test_what_is_to_be_forgotten_is_gone_for_all_and_stays_in_the_history(make):
    with make() as manager, make() as other:
        manager.read("Anna likes tea.\nJonas likes cake.\nMina likes fish.", user="u")
        assert len(other.recall("likes", k=5, user="u")) == 3
        assert manager.forget("#2", user="u") == ("#2",) and manager.forget("#2", user="u") == ()
        for one in (manager, other, make()):
            assert {item.id for item in one.recall("who likes what", k=5, user="u")} == {"#1", "#3"}
        assert [change.verb for change in other.history("#2", user="u")] == ["insert", "forget"]
        assert other.forget(before="2099-01-01", user="u") == ("#1", "#3") and manager.items(user="u") == ()
        (change,) = manager.read("Jonas likes cake.", user="u").applied
        assert change.id == "#4"  # no id is given twice


def test_tools_are_called_as_a_model_calls_them(make):
    with make() as manager:
        names = [tool["function"]["name"] for tool in manager.tools()]
        assert all(
            tool["type"] == "function" and tool["function"]["parameters"]["type"] == "object"
            for tool in manager.tools()
        )
        assert names == [f"memory_{verb}" for verb in ("read", "recall", "answer", "history", "forget")]
        found = json.loads(manager.call("memory_read", '{"text": "Anna likes tea."}', user="u"))
        assert found["changes"][1]["text"] == "Anna likes tea."
        assert json.loads(manager.call("memory_recall", {"question": "tea", "k": 1}, user="u"))[0]["id"] == "#1"
        assert json.loads(manager.call("memory_forget", {"id": "#1"}, user="u")) == ["#1"]
        for name, arguments, why in (
            ("memory_drop", "{}", "no tool"),
            ("memory_recall", "{", "no JSON"),
            ("memory_recall", "[]", "an object"),
            ("memory_recall", {}, "lacks question"),
            ("memory_recall", {"question": "x", "user": "other"}, "no argument 'user'"),
            ("memory_recall", {"question": "x", "k": "3"}, "whole number"),
            ("memory_recall", {"question": "x", "k": -1}, "at least 0"),
            ("memory_forget", {}, "one of id= and before="),
        ):
            assert why in json.loads(manager.call(name, arguments, user="u"))["error"]


def test_the_asynchronous_verbs_are_the_same(make):
    async def use(manager):
        await asyncio.gather(*(manager.aread(f"Item {i} is here.", user=f"u{i % 2}") for i in range(6)))
        found = [await manager.arecall("item", k=9, user=f"u{i}") for i in range(2)]
        assert (await manager.aanswer("Which item is here?", user="u0")).items
        assert len(await manager.ahistory("#1", user="u0")) == 1
        assert await manager.aforget("#1", user="u0") == ("#1",)
        return found

    with make() as manager:
        assert [len(items) for items in asyncio.run(use(manager))] == [3, 3]


def test_what_it_recalls_is_what_trainings_retriever_gives(make):
    """With the memory's own order of ties, in this process and in one that finds the store as it is."""
    from finemem_jax.env.environment import retriever

    with make() as manager, make() as fresh:
        for part in range(18):
            said = range(5 * part, 5 * part + 5)
            manager.read("\n".join(f"Thing {i % 7} of part {part % 4} is {i}." for i in said), user="u")
        find = retriever(manager._held["u"].memory.items, manager._environment)
        for question in ("Thing 3 of part 1", "is 12", "nothing known", "part 2 thing 2 is 9"):
            expected = [(item.id, item.score) for item in find(question)]
            assert [(item.id, item.score) for item in manager.recall(question, user="u")] == expected
            assert [(item.id, item.score) for item in fresh.recall(question, user="u")] == expected
        assert len(manager.items(user="u")) > 64


def test_items_are_recalled_by_speaker_where_training_retrieved_them_so(make):
    with make() as manager:
        env = manager._environment
        manager._environment = replace(env, retrieval=replace(env.retrieval, per_kind=1, split_by="speaker"))
        manager.read("Anna: tea is good.\nAnna: tea is hot.\nBen: I never drink tea at all.", user="u")
        assert sorted(item.text.split(":")[0] for item in manager.recall("is tea good", user="u")) == ["Anna", "Ben"]


def test_a_store_can_be_given_open_and_texts_need_not_be_kept(folder, server, tmp_path):
    store = Store(tmp_path / "m.sqlite")
    config = {"folder": str(folder), "served_name": "m", "keep_text": False}
    manager = Manager(server.url, store, config)
    manager.read("Anna likes tea.", source="s")
    assert [line.text for line in store.lines("default")] == [None, "Anna likes tea."]
    assert manager.read("Anna likes tea.", source="s").known == 1
