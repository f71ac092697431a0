"""Logs survive half-written lines, full disks and whatever a policy may write."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax.files import JsonLines, read_lines, write_atomically

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
    write_atomically(path, "new")
    assert path.read_text() == "new" and not (tmp_path / ".config.json.tmp").exists()
