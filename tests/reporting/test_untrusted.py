"""Nothing that a data set or a model wrote steers a terminal, breaks a line or names a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax import main
from finemem_jax.reporting.untrusted import LONGEST_LINE, file_name, printable
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


@given(ANY)
def test_any_text_becomes_a_file_name_that_is_no_path(text):
    name = file_name(text)
    assert name.isascii() and "/" not in name and name not in ("", ".", "..") and len(name) < 100
    assert name != file_name(text + "x")


def test_path_like_ids_stay_in_their_folder(tmp_path):
    for text in ("../../etc/passwd", "/dev/null", "..", ".", "", "a/b", "con\x00", "~root", "a" * 300):
        path = tmp_path / file_name(text)
        path.write_text("x")
        assert path.parent.resolve() == tmp_path.resolve()
    assert len(list(tmp_path.iterdir())) == 9


def test_ten_megabytes_are_cut_in_no_time():
    shown = printable("\x1b<b>" * 2_500_000)
    assert len(shown) < 8 * LONGEST_LINE and "characters" in shown
    texts = {size: "\x1b<b>" * size for size in (312_500, 2_500_000)}
    assert times_longer(lambda size: printable(texts[size]), 312_500) < LINEAR


def test_an_error_that_quotes_its_input_is_one_clean_line(capsys):
    assert main.main(["train", "--config.\x1b[31mtrain\n.steps=1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "\x1b" not in error and "\\x1b[31mtrain\\n" in error
