"""`finemem bench decode | rollout`: what they print."""

import json

import pytest

from finemem_jax.env.tokenizer import embedded_path
from finemem_jax.main import main

SMALL = ["decode", "--preset=tiny", "--slots=4", "--prompt=20", "--new=6", "--page-tokens=32", "--reps=1"]


def test_decode_prints_rates_and_shares(capsys):
    assert main(["bench", *SMALL, "--requests=8", "--group=4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["completions"] == 8 and report["new_tokens"] == 48
    assert report["prompt_tokens"] == 8 * 20 and report["prefilled_tokens"] == 2 * 19
    assert report["occupancy"] == 1.0 and report["tokens_per_second"] > 0
    assert report["decode_share"] > 0 < report["host_share"]  # what is left of the wall time went to neither
    assert report["decode_share"] + report["host_share"] <= 1


def test_an_unknown_preset_is_one_line_and_exit_code_2(capsys):
    assert main(["bench", "decode", "--preset=9000b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("finemem bench: ") and "9000b" in error and error.count("\n") == 1


@pytest.mark.slow
def test_on_a_heavy_tail_slots_stay_full_and_lock_step_leaves_them_idle(capsys):
    """Lengths with median 40 and 95th percentile 400."""
    load = [*SMALL[:2], "--slots=16", "--prompt=32", "--new=1024", "--requests=512", "--median=40", "--reps=1"]
    reports = []
    for extra in ([], ["--lock-step"]):
        assert main(["bench", *load, *extra]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    engine, lock_step = reports
    assert engine["occupancy"] > 0.85
    assert lock_step["occupancy"] < 0.6


@pytest.mark.slow
def test_rollout_says_where_the_time_goes(capsys):
    assert main(["bench", "rollout", "--steps=1", "--set=train.episodes=4", "--set=train.group_size=2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rollouts"] == 8 and report["completions"] == 32
    shares = [report[f"{name}_share"] for name in ("decode", "host", "waiting")]
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0


def test_a_whole_step_with_shared_prefixes_computes_fewer_tokens(capsys):
    command = ["step", f"--model={embedded_path('warm_start')}", "--prompts=2", "--group=4", "--prompt=24", "--new=4"]
    command += ["--slots=8", "--reps=1"]
    reports = []
    for extra in (["--row-tokens=64"], ["--row-tokens=64", "--share-prefixes"]):
        assert main(["bench", *command, *extra]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    whole, shared = reports
    assert whole["tokens"] == shared["tokens"] == 2 * 4 * 28
    assert whole["computed_tokens"] == 4 * 64 and shared["computed_tokens"] == 2 * 64
    assert 0 < shared["reference_seconds"] < shared["seconds"] and shared["sequences"] == 8


def test_rows_with_fast_weights_are_measured_against_rows_without(capsys):
    command = ["fast", *SMALL[1:], "--requests=4", "--rank=2", "--fast-layers=1", "--texts=16", "--text-tokens=16"]
    assert main(["bench", *command, "--write-rows=4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokens_per_second_with"] == pytest.approx(report["ratio"] * report["tokens_per_second_without"])
    assert report["bytes_per_row"] == 2 * (192 + 192 + 64) * 4 and report["write_seconds_of_4"] > 0


@pytest.mark.slow
def test_recall_says_what_a_write_leaves_in_the_weights(capsys):
    assert main(["bench", "recall", "--episodes=4", "--set=method.fast.lr=0.1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["questions"] > 16 and report["from_nothing"] == 0
    assert report["loss_after"] < report["loss_before"] and report["from_weights"] > 0
