"""What an evaluation has finished is taken up again, and only what is as it was written."""

from __future__ import annotations

import json
import random

import pytest

from finemem_jax.evaluation.log import EvaluationLog

RECORDS = [{"episode": f"e{i}", "scores": [0.5, 1.0], "text": "é\u2028\ud83d"} for i in range(5)]
BLOCKS = (2, 2, 1)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "evaluation" / "greedy.jsonl"
    log = EvaluationLog(path, "of this config", BLOCKS)
    for block, records in enumerate((RECORDS[:2], RECORDS[2:4], RECORDS[4:])):
        log.write(block, records)
    return path


def test_all_that_was_written_is_there_again(path, capsys):
    log = EvaluationLog(path, "of this config", BLOCKS)
    assert log.missing() == [] and log.records() == RECORDS
    assert EvaluationLog(path, "of another", BLOCKS).missing() == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_no_changed_byte_changes_a_record(path, capsys):
    """Only whole blocks count, as they were written; what is lost is said, and the file is kept."""
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        log = EvaluationLog(path, "of this config", BLOCKS)
        for block in log.missing():
            start = sum(BLOCKS[:block])
            log.write(block, RECORDS[start : start + BLOCKS[block]])
        assert log.records() == RECORDS and path.read_bytes().count(b"\n") == 6
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["null", "[]", "{}", '{"block": [], "record": 1, "crc": 2}', '{"block": 0, "record": {}, "crc": "x"}']
)
def test_a_line_of_another_kind_is_left_out(path, line, capsys):
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], line, *lines[1:]]))
    log = EvaluationLog(path, "of this config", BLOCKS)
    assert log.missing() == [] and log.records() == RECORDS
    assert "1 of 7 lines cannot be read (the first is line 2)" in capsys.readouterr().err
    assert json.loads(path.read_text().split("\n")[1])["block"] == 0
