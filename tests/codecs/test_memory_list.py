"""Memory-R1's list of entries: what models really write has the outcome that a reader expects."""

from __future__ import annotations

import json

import pytest

from finemem_jax.config import MemoryConfig
from finemem_jax.env import operations
from finemem_jax.env.environment import apply
from finemem_jax.memory import flat, layered, overwrite
from finemem_jax.types import Operation
from tests import fakes, growth

ADD = {"id": "9", "text": "Anna has a dog", "event": "ADD"}
UPDATE = {"id": "#1", "text": "Anna moved to Bergen", "event": "UPDATE", "old_memory": "Anna moved to Oslo"}
DELETE = {"id": "#2", "text": "Leo likes tea", "event": "DELETE"}
NONE = {"id": "#2", "text": "Leo likes tea", "event": "NONE"}
SKIP = {"event": "NONE"}


def held(*entries):
    return json.dumps({"memory": entries})


def read(text, **settings):
    """(verb, text or id) or the error, of every operation."""
    found = operations.parse(text, flat.SPECS, codec="memory_list", **settings)
    return [o.error or (o.name.removeprefix("memory_"), *sorted(map(str, o.arguments.values()))) for o in found]


INSERTED, UPDATED = ("insert", "Anna has a dog"), ("update", "#1", "Anna moved to Bergen")
DELETED, SKIPPED = ("delete", "#2"), ("skip",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (held(ADD, UPDATE, DELETE), [INSERTED, UPDATED, DELETED]),
        (held(NONE, ADD), [INSERTED]),  # what stays is repeated, and is no operation
        (held(NONE), [SKIPPED]),
        (held(), [SKIPPED]),
        (held(SKIP), [SKIPPED]),
        (held(SKIP, ADD), [SKIPPED, INSERTED]),  # an explicit SKIP beside others is there, for the memory to refuse
        (f"Here it is [as asked]:\n```json\n{held(ADD)}\n```\nDone {{really}}.", [INSERTED]),
        (json.dumps([ADD, DELETE]), [INSERTED, DELETED]),
        (json.dumps(UPDATE), [UPDATED]),
        (f"{held(ADD)}\nand now\n{held(DELETE)}", [INSERTED, DELETED]),
        (held(DELETE, DELETE), [DELETED, DELETED]),
        (held({"id": 3, "event": "delete"}), [("delete", "3")]),
        ('{"memory": [{"text": "caf\\u00e9 \\ud83d\\ude00", "event": "ADD"}]}', [("insert", "café 😀")]),
        ("I would keep [Anna] as {she} is.", []),
        ("", []),
    ],
)
def test_what_is_read(text, found):
    assert read(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"memory": [{"text": "a b", "event": "ADD"}, {"text": "half a sen', [("insert", "a b"), "inside a string"]),
        ('{"memory": [{"text": "a b", "event": "ADD"}, {"text": "c", "event": "ADD"}', [("insert", "a b"), "cut off"]),
        (held({"text": "x", "event": "KEEP"}, ADD), ["event 'KEEP', allowed: ADD, UPDATE, DELETE, NONE", INSERTED]),
        (held({"text": "x"}), ["event 'None'"]),
        (held({"event": "ADD"}), ["missing argument 'content'"]),
        (held({"text": "x", "event": "UPDATE"}), ["missing argument 'id'"]),
        (held({"text": ["x"], "event": "ADD"}), ["argument 'content' is not a string"]),
        (held({"text": "x", "event": "ADD", "time": "May"}), ["unexpected key 'time' in an entry"]),
        (held(["x"], ADD), ["an entry is no object", INSERTED]),
        ('{"memory": [{"text": "he said "hi" to us", "event": "ADD"}, ' + json.dumps(DELETE) + "]}", ["", DELETED]),
    ],
)
def test_what_is_malformed_is_an_error_in_its_place(text, found):
    said = read(text)
    assert len(said) == len(found)
    for one, expected in zip(said, found, strict=True):
        assert expected in one if isinstance(expected, str) else one == expected
        assert not isinstance(expected, str) or one.startswith("malformed: ")


def test_a_list_that_the_budget_cut_off_is_without_its_last_entry():
    whole = held(ADD, DELETE)
    assert read(whole[:-1], is_cut=True) == [INSERTED, "malformed: cut off: the list is not closed"]
    assert read(whole[:-1]) == read(whole, is_cut=True) == [INSERTED, DELETED]


def test_an_update_of_an_unknown_entry_is_never_an_insert():
    memory = fakes.flat_memory()
    for text in ("Anna moved to Oslo", "Leo likes tea"):
        memory, _ = memory.apply(Operation("memory_insert", {"content": text}), 0)
    entries = held(UPDATE | {"id": "#7"}, UPDATE, DELETE, DELETE, UPDATE, NONE | {"id": "#8"})
    parsed = operations.parse(entries, flat.SPECS, codec="memory_list")
    after, outcomes = apply(memory, parsed, 1, MemoryConfig(), memory.items)
    statuses = ["unknown id", "applied", "applied", "unknown id", "duplicate"]
    assert [outcome.status for outcome in outcomes] == statuses
    assert [(item.id, item.text) for item in after.items] == [("#1", "Anna moved to Bergen")]


def test_it_fits_one_list_alone():
    assert not operations.unfit("memory_list", flat.SPECS)
    for memory in (layered, overwrite):
        assert "config.memory.name=flat" in operations.unfit("memory_list", memory.SPECS)
        assert operations.parse(held(ADD), memory.SPECS, codec="memory_list") == ()


@pytest.mark.parametrize("unit", ['{"id":', '[{"', '"memory": [', "[   ", held(ADD), '{"text": "', "[{'a':" * 9])
def test_the_time_of_reading_grows_with_the_text(unit):
    def parse(times):
        operations.parse(unit * times, flat.SPECS, codec="memory_list", is_cut=True)

    assert growth.times_longer(parse, (1 << 14) // len(unit)) < growth.LINEAR
