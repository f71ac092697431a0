"""TensorBoard's own reader finds in the event files what was logged, under the documented names."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finemem_jax.config import LoggingConfig, UserError
from finemem_jax.evaluation.records import Evaluation
from finemem_jax.reporting import trackers
from finemem_jax.reporting.trackers import Trackers
from tests.reporting import runs


def read(folder):
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    return found.Reload()


def open_trackers(tmp_path, first=0, is_lead=True, **changes):
    return Trackers(LoggingConfig(**changes), tmp_path, name="x", config={}, first=first, is_lead=is_lead)


def test_scalars_histograms_and_texts_come_back(tmp_path):
    groups = [[runs.rollout(0, sample=s, nasty="<script>") for s in range(2)]]
    terms = {"format": np.array([[[0.0, 0.5, 1.0], [1.0, np.nan, 1.0]]])}
    with open_trackers(tmp_path, sample_every=2) as board:
        for step in range(3):
            board.scalars(step, {"accuracy": step / 4, "reward/format": 1.0, "policy": "not a number"})
            board.rollouts(step, groups, terms, -terms["format"])
        board.evaluations(3, {"T=1": Evaluation({"accuracy": 0.75}, [])})
        board.evaluations(3, {"greedy": Evaluation({"accuracy": None}, [])})  # it got no answers
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {"accuracy", "reward/format", "eval/T_1/accuracy"}
    assert [(e.step, e.value) for e in found.Scalars("accuracy")] == [(0, 0), (1, 0.25), (2, 0.5)]
    assert found.Scalars("eval/T_1/accuracy")[0].step == 3
    histogram = found.Histograms("histogram/reward/format")
    assert [h.step for h in histogram] == [0, 2] and histogram[
        0
    ].histogram_value.num == 5  # the missing one is left out
    assert histogram[0].histogram_value.sum == pytest.approx(3.5)
    (text,) = {t.tensor_proto.string_val[0].decode() for t in found.Tensors("sample/text_summary")}
    assert "    chunk 0 of episode 0 <script>" in text and "what is 1 of 0?" in text


def test_a_resumed_run_drops_what_it_logs_again(tmp_path):
    with open_trackers(tmp_path) as board:
        for step in range(4):
            board.scalars(step, {"accuracy": 0.1})
    with open_trackers(tmp_path, first=2) as board:
        board.scalars(2, {"accuracy": 0.9})
    assert [(e.step, round(e.value, 3)) for e in read(tmp_path).Scalars("accuracy")] == [(0, 0.1), (1, 0.1), (2, 0.9)]


def test_a_run_killed_before_its_first_checkpoint_has_no_step_twice(tmp_path):
    """It begins anew: what the killed process logged is of steps that come again."""
    for accuracy in (0.1, 0.2, 0.9):
        board = open_trackers(tmp_path)  # a kill closes nothing
        for step in range(3):
            board.scalars(step, {"accuracy": accuracy})
    assert [(e.step, round(e.value, 3)) for e in read(tmp_path).Scalars("accuracy")] == [(0, 0.9), (1, 0.9), (2, 0.9)]


def test_what_was_shown_is_on_the_disk_before_anything_else_happens(tmp_path):
    """A kill loses nothing of the steps before a checkpoint."""
    board = open_trackers(tmp_path)
    for step in range(3):
        board.scalars(step, {"accuracy": 0.5})
        assert [event.step for event in read(tmp_path).Scalars("accuracy")] == list(range(step + 1))


FULL_DISK = """
import resource, sys
from pathlib import Path
import finemem_jax.reporting.board
from finemem_jax.config import LoggingConfig
from finemem_jax.reporting.trackers import Trackers
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
board = Trackers(LoggingConfig(), Path(sys.argv[1]), name="x", config={}, first=0, is_lead=True)
for step in range(30):
    resource.setrlimit(resource.RLIMIT_FSIZE, (500 if 5 <= step < 25 else hard, hard))
    board.scalars(step, {f"accuracy{i}": 0.5 for i in range(10)})
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limits here")
def test_a_full_disk_costs_what_could_not_be_shown_and_stops_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written (File too large): the run goes on without it") == 1
    steps = [event.step for event in read(tmp_path).Scalars("accuracy9")]  # the last of a step
    assert steps == [*range(5), *range(25, 30)]


def test_only_the_lead_writes_and_only_when_asked(tmp_path):
    for options in ({"is_lead": False}, {"tensorboard": False}):
        with open_trackers(tmp_path, **options) as board:
            board.scalars(0, {"accuracy": 0.1})
    assert not (tmp_path / "tensorboard").exists()


def records_of(folder):
    """The records of an offline run of Weights & Biases: protobuf messages in LevelDB's log format, which is blocks of
    32 KiB with fragments (checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last) after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no fragment begins in a block's last bytes
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@pytest.fixture
def wandb(monkeypatch):
    """Weights & Biases, offline. It reads its variables once, for all runs of a process, until it is torn down."""
    library = pytest.importorskip("wandb", reason="Weights & Biases (the extra `wandb`) is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    library.teardown()
    yield library
    library.teardown()


def test_wandb_holds_the_documented_names(tmp_path, wandb):
    groups = [[runs.rollout(0, sample=s, nasty="<script>") for s in range(2)]]
    terms = {"format": np.array([[[0.0, 0.5, 1.0], [1.0, np.nan, 1.0]]])}
    logged = {step: {"accuracy": step / 4, "reward/format": 1.0, "seconds/rollout": 0.5} for step in range(3)}
    with open_trackers(tmp_path, tensorboard=False, wandb=True, sample_every=2) as board:
        board.evaluations(0, {"T=1": Evaluation({"accuracy": 0.25}, [])})
        for step, values in logged.items():  # in the order of a training step
            timing = values.pop("seconds/rollout")
            board.scalars(step, values)
            board.rollouts(step, groups, terms, -terms["format"])
            board.scalars(step, {"seconds/rollout": timing})
            values["seconds/rollout"] = timing
        board.evaluations(3, {"T=1": Evaluation({"accuracy": 0.75}, [])})
    # A run that is finished may still be on its way into its file: another process writes it, and has when that ends.
    wandb.teardown()
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records_of(tmp_path)
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    for step, values in logged.items():
        assert {name: rows[step][name] for name in values} == values
    assert rows[0]["eval/T_1/accuracy"] == 0.25 and rows[3]["eval/T_1/accuracy"] == 0.75
    for name in ("reward/format", "advantage", "memory_tokens", "completion_tokens"):
        assert f"histogram/{name}/values" in rows[2] and f"histogram/{name}/values" not in rows[1]
    assert sum(rows[0]["histogram/reward/format/values"]) == 5  # the missing one is left out
    assert rows[2]["sample/path"].endswith(".table.json")
    (table, *_) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.json")
    assert "chunk 0 of episode 0 <script>" in json.loads(table.read_text())["data"][0][0]


def test_wandb_that_refuses_is_one_line(tmp_path, wandb):
    with pytest.raises(UserError, match=r"config\.logging\.wandb=true: .*project.*WANDB_MODE=offline"):
        open_trackers(tmp_path, tensorboard=False, wandb=True, wandb_project="no/such")


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is not None:
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'finemem_jax\[wandb\]'"):
        open_trackers(tmp_path, wandb=True)
