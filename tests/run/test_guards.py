"""Each alarm sounds on its metric, after `patience` steps in a row, and goes on counting after a resume."""

from __future__ import annotations

import dataclasses
import json

import pytest

from finemem_jax.config import GuardConfig, GuardsConfig
from finemem_jax.run.guards import WATCHES, Guards

HEALTHY = {
    "groups_with_gradient": 0.9,
    "valid_operations": 0.9,
    "unfinished": 0.0,
    "missing_rewards": 0.0,
    "reward/total": 1.0,
    "loss/ref_kl": 0.01,
    "loss/old_kl": 0.001,
    "loss/nll": 0.5,
}


def sounded(guards: Guards, lines: list[dict]) -> list[tuple[int, str]]:
    return [(i, alarm.name) for i, line in enumerate(lines) for alarm in guards.check(line)]


def test_a_healthy_run_sounds_no_alarm():
    assert sounded(Guards(GuardsConfig(patience=1)), [HEALTHY] * 5) == []


@pytest.mark.parametrize(
    ("name", "metric", "value"),
    [
        ("reward_collapse", "groups_with_gradient", 0.0),
        ("format_collapse", "valid_operations", 0.05),
        ("length_explosion", "unfinished", 0.8),
        ("missing_rewards", "missing_rewards", 0.05),
        ("kl", "loss/ref_kl", 11.0),
        ("drift", "loss/old_kl", 1.5),
        ("entropy_low", "loss/nll", 1e-5),
        ("entropy_high", "loss/nll", 9.0),
    ],
)
def test_an_alarm_sounds_after_patience_steps_in_a_row_and_names_its_knob(name, metric, value):
    bad = {**HEALTHY, metric: value}
    guards = Guards(GuardsConfig(patience=3))
    assert sounded(guards, [bad, bad, HEALTHY, bad, bad]) == []
    (alarm,) = guards.check(bad)
    assert (alarm.name, alarm.metric, alarm.value, alarm.in_a_row, alarm.action) == (name, metric, value, 3, "warn")
    assert f"config.guards.{name}.limit=" in str(alarm)
    assert sounded(guards, [bad] * 21) == [(2, name), (8, name), (20, name)]  # again after 6, 12 and 24 in a row
    stop = dataclasses.replace(GuardsConfig(patience=3), **{name: GuardConfig(limit=alarm.limit, action="stop")})
    assert sounded(Guards(stop), [bad] * 9) == [(2, name), (5, name), (8, name)]  # a run that is started again
    off = dataclasses.replace(GuardsConfig(patience=1), **{name: GuardConfig(limit=alarm.limit, action="off")})
    assert sounded(Guards(off), [bad] * 3) == []


def test_every_alarm_is_tested_and_has_a_config():
    tested = {"reward_collapse", "format_collapse", "length_explosion", "kl", "drift", "entropy_low", "entropy_high"}
    assert set(WATCHES) == tested | {"reward_drop", "missing_rewards", "missing_rewards_stop"}
    assert all(isinstance(getattr(GuardsConfig(), name), GuardConfig) for name in WATCHES)


def test_answers_that_are_missing_warn_at_5_percent_and_stop_at_50():
    found = Guards(GuardsConfig(patience=1)).check({**HEALTHY, "missing_rewards": 0.5})
    assert {alarm.name: alarm.action for alarm in found} == {"missing_rewards": "warn", "missing_rewards_stop": "stop"}
    assert sounded(Guards(GuardsConfig(patience=1)), [{**HEALTHY, "missing_rewards": 0.049}]) == []


def test_a_fall_of_the_smoothed_reward_below_its_best_is_an_alarm():
    cfg = GuardsConfig(patience=1, reward_drop=GuardConfig(limit=0.3))
    lines = [{**HEALTHY, "reward/total": value} for value in [1.0] * 5 + [0.0] * 6]
    # Below the best 1.0 by 1 - 0.9^n after n steps: 0.1, 0.19, 0.271, 0.344.
    assert sounded(Guards(cfg), lines)[0] == (8, "reward_drop")


def test_skipped_updates_are_counted_across_steps():
    guards = Guards(GuardsConfig(non_finite=GuardConfig(limit=3.0, action="stop")))
    assert guards.check(HEALTHY, [True, True]) == []
    assert guards.check(HEALTHY, [False, True]) == []
    (alarm,) = guards.check(HEALTHY, [True, True])
    assert (alarm.name, alarm.in_a_row, alarm.action) == ("non_finite", 3, "stop")
    assert "3 updates in a row" in str(alarm)


def test_a_metric_that_was_not_measured_sounds_nothing():
    assert sounded(Guards(GuardsConfig(patience=1)), [{}, {"loss/nll": float("nan")}, {"reward/total": 1.0}]) == []


def test_the_state_survives_json_and_goes_on_as_if_nothing_had_happened():
    cfg = GuardsConfig(patience=2, reward_drop=GuardConfig(limit=0.05))
    lines = [{**HEALTHY, "reward/total": 1 / (i + 1), "unfinished": float(i % 4 > 0)} for i in range(12)]
    whole = sounded(Guards(cfg), lines)
    first = Guards(cfg)
    before = sounded(first, lines[:5])
    after = sounded(Guards(cfg, json.loads(json.dumps(first.state()))), lines[5:])
    assert whole == before + [(i + 5, name) for i, name in after]
    assert {name for _, name in whole} >= {"length_explosion", "reward_drop"}
