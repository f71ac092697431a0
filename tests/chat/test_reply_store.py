"""The replies on disk: what is damaged is asked again, and the file keeps to its bound. Random damage: tests/fuzz."""

from __future__ import annotations

import random
import sqlite3

import pytest

from finemem_jax.chat.reply_store import ReplyStore
from finemem_jax.config import UserError
from finemem_jax.types import Reply

MIB = 1 << 20


def key(number: int) -> str:
    return f"{number:064x}"


def reply(number: int) -> Reply:
    return Reply(f"answer {number} " + random.Random(number).randbytes(300).hex(), number, 3)


def filled(path, count, max_bytes=64 * MIB) -> ReplyStore:
    store = ReplyStore(str(path), max_bytes)
    for number in range(count):
        store.keep(key(number), reply(number))
    return store


def texts(store, count) -> dict[int, str]:
    found = store.find([key(number) for number in range(count)])
    return {int(name, 16): reply.text for name, reply in found.items()}


def test_what_is_kept_is_found_by_the_next_run(tmp_path):
    filled(tmp_path / "a.sqlite", 700).close()
    found = ReplyStore(str(tmp_path / "a.sqlite"), MIB).find([key(number) for number in range(800)])
    assert found == {key(n): Reply(reply(n).text, n, 3, key(n)) for n in range(700)}


@pytest.mark.parametrize("column", ["text", "prompt_tokens", "completion_tokens", "key", "checksum"])
def test_a_reply_that_is_not_what_was_written_is_unknown_and_kept_anew(tmp_path, capfd, column):
    path = tmp_path / "a.sqlite"
    filled(path, 3).close()
    with sqlite3.connect(path) as rows:
        value = {"text": b"another answer", "key": bytes.fromhex(key(9)), "checksum": None}.get(column, 12345)
        rows.execute(f"UPDATE kept SET {column} = ? WHERE number = 2", (value,))
    store = ReplyStore(str(path), MIB)
    assert texts(store, 10) == {n: reply(n).text for n in (0, 2)}
    store.keep(key(1), reply(1))
    assert texts(store, 3) == {n: reply(n).text for n in range(3)}
    assert column == "key" or "damaged" in capfd.readouterr().err  # under another key nobody finds it


def test_of_a_file_with_a_damaged_page_the_rest_is_carried_over(tmp_path, capfd):
    path = tmp_path / "a.sqlite"
    filled(path, 400).close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    store = ReplyStore(str(path), 64 * MIB)
    for _ in range(2):  # the first time it may be that only then the damage is met
        found = texts(store, 400)
    assert 300 < len(found) < 400 and found == {n: reply(n).text for n in found}
    assert (tmp_path / "a.sqlite.damaged").read_bytes() == data
    assert "carried over" in capfd.readouterr().err
    store.keep(key(1000), reply(1))
    assert ReplyStore(str(path), 64 * MIB).find([key(1000)])[key(1000)].text == reply(1).text


def test_a_second_damaged_file_does_not_take_the_place_of_the_first(tmp_path):
    path = tmp_path / "a.sqlite"
    for content in (b"no database" * 500, b"nor this one" * 500):
        for old in tmp_path.glob("a.sqlite*"):
            if "damaged" not in old.name:
                old.unlink()
        path.write_bytes(content)
        filled(path, 2).close()
    assert (tmp_path / "a.sqlite.damaged").read_bytes().startswith(b"no database")
    assert (tmp_path / "a.sqlite.damaged-2").read_bytes().startswith(b"nor this one")


def test_a_cache_keeps_to_its_bound_and_the_newest_replies(tmp_path, capfd):
    path = tmp_path / "a.sqlite"
    store = filled(path, 6000, max_bytes=MIB)  # of 700 bytes each
    found = texts(store, 6000)
    assert found == {n: reply(n).text for n in found}
    assert 5999 in found and 0 not in found and len(found) > 800
    store.close()
    assert path.stat().st_size <= MIB
    assert capfd.readouterr().err.count("max_cache_bytes") == 1


def test_a_cache_that_cannot_be_written_is_read_and_says_so(tmp_path, capfd):
    path = tmp_path / "a.sqlite"
    filled(path, 2).close()
    store = ReplyStore(str(path), MIB)
    store._rows.execute("PRAGMA query_only=ON")  # what a file system that was mounted anew for reading does
    store.keep(key(2), reply(2))
    assert texts(store, 3) == {n: reply(n).text for n in range(2)}
    assert "answers are not kept" in capfd.readouterr().err


def test_a_header_that_says_the_file_is_only_to_be_read_is_damage(tmp_path, capfd):
    path = tmp_path / "a.sqlite"
    filled(path, 2).close()
    whole = bytearray(path.read_bytes())
    whole[18] = 3  # the version that a writer needs
    path.write_bytes(whole)
    store = ReplyStore(str(path), MIB)
    store.keep(key(2), reply(2))
    assert texts(store, 3)[2] == reply(2).text and (tmp_path / "a.sqlite.damaged").exists()
    assert "damaged" in capfd.readouterr().err
    store.close()
    assert texts(ReplyStore(str(path), MIB), 3) == {n: reply(n).text for n in range(3)}


def test_a_folder_in_the_way_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"config\.answerer\.cache") as error:
        ReplyStore(str(tmp_path), MIB)
    assert "\n" not in str(error.value)
