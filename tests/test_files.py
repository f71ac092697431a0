"""Logs survive half-written lines, full disks and whatever a policy may write."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax.files import JsonLines, holds_numbers, read_lines, write_atomically

ROOT = Path(__file__).parents[1]


def test_a_file_cut_at_any_byte_loses_the_last_line_at_most(tmp_path):
    log = JsonLines(tmp_path / "whole.jsonl")
    for step in range(3):
        log.write(step, {"text": "é\u2028\x85<b>\x1b[31m\ud83d", "value": 0.1})
    whole = log.path.read_bytes()
    for cut in range(len(whole)):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:cut])
        kept = JsonLines(path, keep_below=3)
        lines = whole[:cut].count(b"\n")
        rest = len(whole[:cut].rpartition(b"\n")[2])
        complete = lines + (rest > 0 and rest == len(whole.split(b"\n")[lines]))
        assert [line["step"] for line in read_lines(path)] == list(range(complete))
        for step in range(complete, 3):
            kept.write(step, {"text": "é\u2028\x85<b>\x1b[31m\ud83d", "value": 0.1})
        assert path.read_bytes() == whole


def test_lines_of_later_steps_are_dropped_at_a_resume(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    for step in range(5):
        log.write(step, {"value": step})
    assert [line["step"] for line in read_lines(JsonLines(log.path, keep_below=2).path)] == [0, 1]


DAMAGE = {
    "null": b"null",
    "a list": b"[1]",
    "a key with a flipped bit": b'{"stdp": 1, "value": 2.0}',
    "text for a number": b'{"step": 1, "value": "2.0"}',
    "a step that is none": b'{"step": true, "value": 2.0}',
    "a step below 0": b'{"step": -1, "value": 2.0}',
    "an absurd step": b'{"step": 1' + b"0" * 400 + b', "value": 2.0}',
    "a number beyond all floats": b'{"step": 1, "value": 1e999}',
    "NaN": b'{"step": 1, "value": NaN}',
    "a bad byte": b'{"step": 1, "va\xfflue": 2.0}',
    "half a line": b'{"step": 1, "val',
    "a million brackets": b"[" * 1_000_000,
    "nothing": b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_line_costs_that_line_alone_and_the_loss_is_said(tmp_path, capsys, damage):
    path = tmp_path / "metrics.jsonl"
    whole = [f'{{"step": {step}, "value": 0.5}}'.encode() for step in range(4)]
    path.write_bytes(b"\n".join([whole[0], damage, *whole[2:], b'{"step": 4, "ha']))
    before = path.read_bytes()
    log = JsonLines(path, keep_below=9, expected=holds_numbers)
    assert path.read_bytes() == b"\n".join([whole[0], *whole[2:], b""])
    assert (tmp_path / "metrics.jsonl.damaged-1").read_bytes() == before
    said = capsys.readouterr().err
    assert f"WARNING: {path}: 1 of 4 lines cannot be read (the first is line 2); they are lost" in said
    assert "the file is kept as metrics.jsonl.damaged-1" in said
    log.write(4, {"value": 0.5})
    assert [line["step"] for line in read_lines(path)] == [0, 2, 3, 4]
    JsonLines(path, keep_below=9, expected=holds_numbers)
    assert capsys.readouterr().err == "" and len(list(tmp_path.iterdir())) == 2


def test_half_a_line_at_the_end_is_no_damage(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1, "te\xc3')
    JsonLines(path).write(1, {})
    assert [line["step"] for line in read_lines(path)] == [0, 1]
    assert capsys.readouterr().err == "" and len(list(tmp_path.iterdir())) == 1


def test_every_damaged_file_is_kept_under_a_name_of_its_own(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for number in (1, 2):
        path.write_bytes(b"%d\n" % number)
        JsonLines(path)
        assert (tmp_path / f"metrics.jsonl.damaged-{number}").read_bytes() == b"%d\n" % number


def test_a_log_that_is_no_file_makes_room_for_one(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.mkdir()
    JsonLines(path).write(0, {})
    assert read_lines(path) == [{"step": 0}] and (tmp_path / "metrics.jsonl.damaged-1").is_dir()
    assert "cannot be read (Is a directory)" in capsys.readouterr().err


FULL_DISK = """
import resource, sys
from pathlib import Path
from finemem_jax.files import JsonLines, read_lines, write_atomically
path = Path(sys.argv[1])
log = JsonLines(path / "log.jsonl")
log.write(0, {"text": "x" * 100})
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
for step in (1, 2):
    try:
        log.write(step, {"text": "y" * 100})
        sys.exit("the disk is not full")
    except OSError as error:
        assert [line["step"] for line in read_lines(log.path)] == [0], error
try:
    write_atomically(path / "config.json", "z" * 300)
    sys.exit("the disk is not full")
except OSError:
    assert not (path / "config.json").exists() and not list(path.glob(".*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.flush()
log.write(3, {"text": "w"})
assert [line["step"] for line in read_lines(log.path)] == [0, 1, 2, 3]
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limits here")
def test_lines_that_meet_a_full_disk_are_written_later_and_none_is_half_there(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_interrupted_replacement_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    write_atomically(path, "old")
    (tmp_path / ".config.json.tmp").write_text("half a new")  # what a kill leaves
    assert path.read_text() == "old"
    (tmp_path / ".config.json.tmp").unlink()
    (tmp_path / ".config.json.tmp").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("work")
    write_atomically(path, "new")
    assert (tmp_path / "precious").read_text() == "work"
    assert path.read_text() == "new" and not (tmp_path / ".config.json.tmp").exists()
