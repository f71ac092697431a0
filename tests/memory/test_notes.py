"""What is written of notes, in a memory's own tools."""

from finemem_jax.config import MemoryConfig
from finemem_jax.memory import layered, overwrite
from finemem_jax.types import Operation
from tests.fakes import count_words


def insert(text):
    return Operation("memory_insert", {"content": text})


def update(note, text):
    return Operation("memory_update", {"content": text, "id": note})


def written(module, notes_of_turns, fits=lambda text: True):
    """The memory after turns, each a function of its notes to operations on them."""
    memory = module.create(MemoryConfig(), count_words)
    for step, turn in enumerate(notes_of_turns):
        notes = module.notes(memory.items)
        for operation in module.from_notes(turn({note.text: note.id for note in notes}), notes, fits):
            memory, outcome = memory.apply(operation, step)
            assert outcome.ok
    return memory


def test_notes_are_lines_of_one_text():
    def turns(fits):
        return written(
            overwrite,
            [
                lambda notes: [Operation("memory_skip")],
                lambda notes: [insert("old Ann house"), insert("a bee"), insert("a cow")],
                lambda notes: [update(notes["old Ann house"], "now new Ann house"), insert("red Bo car")],
                lambda notes: [Operation("memory_delete", {"id": notes["a bee"]})],
            ],
            fits,
        )

    assert turns(lambda text: True).items[0].text == "now new Ann house\na cow\nred Bo car"
    assert turns(lambda text: len(text.split()) <= 7).items[0].text == "a cow\nred Bo car"  # the first ones leave
    assert written(overwrite, [lambda notes: []]).items[0].text == "nothing so far"
    assert overwrite.notes(written(overwrite, [lambda notes: []]).items) == []


def test_notes_go_to_the_part_of_memory_that_they_are_of():
    memory = written(
        layered,
        [
            lambda notes: [insert("old Ann house"), insert("play jazz => music"), insert("a bee")],
            lambda notes: [update(notes["old Ann house"], "now new Ann house"), update(notes["a bee"], "a cow")],
            lambda notes: [Operation("memory_delete", {"id": notes["play jazz => music"]}), insert("red Bo car")],
        ],
    )
    assert [(item.kind, item.text) for item in memory.items] == [
        ("core", "now new Ann house"),
        ("episodic", "a cow"),
        ("episodic", "red Bo car"),
    ]
