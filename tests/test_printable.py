"""Nothing that a data set or a model wrote steers a terminal or breaks a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax import main
from finemem_jax.console import LONGEST_LINE, print_table, printable, tell
from tests.growth import LINEAR, times_longer

ANY = st.text(st.characters(exclude_categories=()), max_size=200)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 😀\n\tindented", "plain é 漢 😀\n\tindented"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\x00b\rc\x85d", "a\\x00b\\rc\\x85d"),
        ("\u202etxt.exe\u2028", "\\u202etxt.exe\\u2028"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_what_could_steer_a_terminal_is_written_out(text, shown):
    assert printable(text) == shown
    assert "\n" not in printable(text, one_line=True)


@given(ANY)
def test_any_text_becomes_printable_and_encodable(text):
    shown = printable(text, one_line=True)
    assert all(c == "\t" or c.isprintable() or not c.isascii() for c in shown)
    shown.encode("utf-8")
    assert "\x1b" not in shown and "\n" not in shown and "\x00" not in shown


def test_ten_megabytes_are_cut_in_no_time():
    shown = printable("\x1b<b>" * 2_500_000)
    assert len(shown) < 8 * LONGEST_LINE and "characters" in shown
    texts = {size: "\x1b<b>" * size for size in (312_500, 2_500_000)}
    assert times_longer(lambda size: printable(texts[size]), 312_500) < LINEAR


HOSTILE = "\x1b[31m[red]evil[/red]\x1b]0;title\x07\nsecond\u202e"


def test_tables_show_hostile_names_as_they_are(capsys):
    print_table(f"title {HOSTILE}", ["", f"head {HOSTILE}"], [[f"cell {HOSTILE}", "1"], ["plain", f"value {HOSTILE}"]])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and "\u202e" not in shown
    for what in ("title", "head", "cell", "value"):
        assert f"{what} \\x1b[31m[red]evil[/red]\\x1b]0;title\\x07\\nsecond\\u202e" in shown


def test_what_is_told_is_cleaned_line_by_line(capsys):
    tell(f"a line\n{HOSTILE}\n" + "long " * 10_000)
    shown = capsys.readouterr().out
    assert shown.startswith("a line\n\\x1b[31m[red]evil") and "\x1b" not in shown and shown.count("\n") == 4
    assert len(shown) < 2 * LONGEST_LINE


def test_an_evaluation_of_hostile_data_sources_writes_no_escape(tmp_path, capfd):
    row = {
        "data_source": f"squad{HOSTILE}",
        "chunks": ["Ada lives in Oslo."],
        "questions_and_answers": [{"question": "Where does Ada live?", "answer": "Oslo"}],
    }
    other = row | {"data_source": "squad"}
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, (row, other))))
    given = [f"--config.data.eval_path={data}", "--config.data.name=memalpha", "--config.eval.baselines=('store_all',)"]
    command = [
        "evaluate",
        "--config=configs/quickstart.py",
        f"--workdir={tmp_path / 'run'}",
        "--baselines-only",
        *given,
    ]
    assert main.main(command) == 0
    out, err = capfd.readouterr()
    assert "evil" in out and "\x1b" not in out + err and "\u202e" not in out + err


def test_an_error_that_quotes_its_input_is_one_clean_line(capsys):
    assert main.main(["train", "--config.\x1b[31mtrain\n.steps=1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "\x1b" not in error and "\\x1b[31mtrain\\n" in error
