"""TensorBoard's own reader finds in the event files what was logged, under the documented names."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finemem_jax.config import LoggingConfig, UserError
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
        board.evaluation(3, "T=1", {"accuracy": 0.75})
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


def test_only_the_lead_writes_and_only_when_asked(tmp_path):
    for options in ({"is_lead": False}, {"tensorboard": False}):
        with open_trackers(tmp_path, **options) as board:
            board.scalars(0, {"accuracy": 0.1})
    assert not (tmp_path / "tensorboard").exists()


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is not None:
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'finemem_jax\[wandb\]'"):
        open_trackers(tmp_path, wandb=True)
