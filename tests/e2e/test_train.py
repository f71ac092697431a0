"""The whole of training at a small size: a run, the same run again, the same run resumed, and what it leaves."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finemem_jax import exits, main, train
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.files import read_lines
from finemem_jax.loading import load_policy
from finemem_jax.nn.lora import without_adapters
from finemem_jax.weights import hf
from finemem_jax.weights.checkpoints import Checkpoints

OVERRIDES = (
    "--config.train.steps=4",
    "--config.train.episodes=2",
    "--config.train.mini_batches=2",
    "--config.train.group_size=4",
    "--config.train.checkpoint_every=2",
    "--config.train.eval_every=2",
    "--config.eval.episodes=4",
    "--config.loss.kl_coef=0.01",
    "--config.engine.slots=8",
    "--config.mesh.data=1",
    "--config.profile.steps=1",
    "--config.logging.sample_every=2",
)
# For a run of which only the training is looked at: one held-out episode after it, and no profile.
BARE = (
    "--config.train.eval_every=0",
    "--config.eval.episodes=1",
    "--config.eval.temperatures=(0.0,)",
    "--config.eval.baselines=()",
    "--config.profile.steps=0",
)


@pytest.fixture(scope="module")
def cfg():
    return main.load_config("configs/quickstart.py", OVERRIDES)


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory):
    """A finished run: its workdir and its results."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.train(cfg, workdir)


def test_a_run_trains_and_leaves_its_files(cfg, run):
    workdir, results = run
    lines = read_lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        assert np.isfinite(line["loss/loss"]) and line["loss/grad_norm"] > 0
        assert {"reward/format", "reward/chunk_qa", "reward/evidence", "reward/compression"} <= line.keys()
        # The sampler's log-probabilities and the trainer's are the same function: ratio 1 before the first update.
        assert line["loss/first_log_ratio_abs_max"] < 1e-4
        assert line["missing_rewards"] == line["loss/skipped_updates"] == 0
    assert set(results) == {"before T=1", "before greedy", "after T=1", "after greedy"}
    assert [line["step"] for line in read_lines(workdir / "evaluations.jsonl")] == [0, 0, 2, 2, 4, 4]
    table = json.loads((workdir / "results.json").read_text())
    assert {"no_memory", "store_all", "expert", "oracle", "before T=1", "after greedy"} <= table.keys()
    assert (workdir / "curves.png").stat().st_size > 10_000


def documented(name):
    """Whether a name is in the table of docs/metrics.md, TERM and PHASE standing for a word."""
    table = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    patterns = ["[a-z_]+".join(map(re.escape, re.split("TERM|PHASE", row))) for row in rows]
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def test_every_logged_name_is_documented_and_in_tensorboard(run):
    workdir, _ = run
    metrics, timings = (read_lines(workdir / f"{name}.jsonl") for name in ("metrics", "timings"))
    names = {name for line in [*metrics, *timings] for name in line} - {"step"}
    assert {name for name in names if not documented(name)} == set() and not documented("reward/")
    for term in ("format", "chunk_qa", "evidence", "compression"):
        assert {f"reward/{term}", f"spread/{term}", f"share/{term}"} <= names
    assert all(sum(v for k, v in line.items() if k.startswith("share/")) == pytest.approx(1) for line in metrics)
    board = EventAccumulator(str(workdir / "tensorboard")).Reload()
    tags = board.Tags()
    assert names | {"eval/T_1/accuracy", "eval/greedy/memory_tokens"} <= set(tags["scalars"])
    assert [e.value for e in board.Scalars("reward/total")] == pytest.approx([m["reward/total"] for m in metrics])
    assert "histogram/advantage" in tags["histograms"]
    assert [e.step for e in board.Tensors("sample/text_summary")] == [0, 2]


def test_throughput_is_told_of_rollouts_and_of_evaluations_by_themselves(run):
    """Four rollouts of two groups, four chunks each; four held-out episodes at two temperatures at steps 0 and 2."""
    workdir, _ = run
    lines = read_lines(workdir / "timings.jsonl")
    assert [line["engine/completions"] for line in lines] == [32] * 4
    assert [line.get("engine/evaluate/completions") for line in lines] == [32, None, 32, None]
    for line in lines:
        for prefix, phase in (("engine", "rollout"), ("engine/evaluate", "evaluate")):
            if f"seconds/{phase}" in line:
                shown = line[f"{prefix}/tokens_per_second"] * line[f"seconds/{phase}"]
                assert shown == pytest.approx(line[f"{prefix}/sampled_tokens"], rel=1e-6)


def test_the_times_of_a_checkpoint_are_in_the_line_after_it(run):
    """The line of a step is on the disk before the checkpoint that stands on it: a kill leaves no gap."""
    workdir, _ = run
    lines = read_lines(workdir / "timings.jsonl")
    assert ["seconds/checkpoint" in line for line in lines] == [False, False, True, False]


def test_a_run_leaves_its_rollouts_report_and_profile(cfg, run):
    workdir, _ = run
    recorded = read_lines(workdir / "rollouts.jsonl")
    assert [(r["step"], len(r["samples"])) for r in recorded] == [(step, 4) for step in range(4)]
    line = read_lines(workdir / "metrics.jsonl")[0]
    assert len(recorded[0]["samples"][0]["rewards"]["format"]) == len(recorded[0]["chunks"])
    assert (
        0 <= np.mean([s["rewards"]["format"] for s in recorded[0]["samples"]]) <= 1 and 0 <= line["reward/format"] <= 1
    )
    questions = read_lines(workdir / "heldout" / "after greedy.jsonl")
    scores = [[a["score"] for a in q["samples"][0]["answers"]] for q in questions]
    results = json.loads((workdir / "results.json").read_text())
    assert np.mean([np.mean(s) for s in scores]) == pytest.approx(results["after greedy"]["accuracy"])
    assert "diary-eval" in (workdir / "report.html").read_text("utf-8")
    phases = (workdir / "profile" / "phases.md").read_text("utf-8")
    for phase in ("rollout", "answer", "pack", "reference", "update", "checkpoint"):
        assert re.search(rf"^\| {phase} \| 0\.\d+|^\| {phase} \| \d+\.", phases, flags=re.M)
    assert phases.startswith("Steps 2 to 2.") and list((workdir / "profile").rglob("*.trace.json.gz"))


def test_the_exported_folder_holds_the_trained_parameters(cfg, run, tmp_path):
    workdir, _ = run
    before = load_policy(cfg)
    _, params = hf.load_pretrained(str(workdir / "hf"))
    moved = [
        not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(params), strict=True)
    ]
    assert all(moved)
    assert main.main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]) == 0
    _, exported = hf.load_pretrained(str(tmp_path / "out"))
    jax.tree.map(np.testing.assert_array_equal, params, exported)
    assert len(tokenizers.load(str(tmp_path / "out"))) == len(before.tokenizer)


@pytest.mark.slow
def test_two_runs_write_the_same_metrics_byte_for_byte(cfg, run, tmp_path):
    workdir, _ = run
    train.train(dataclasses.replace(cfg, profile=dataclasses.replace(cfg.profile, steps=0)), tmp_path)
    for name in ("metrics.jsonl", "evaluations.jsonl", "results.json", "rollouts.jsonl"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()


def test_a_run_whose_newest_checkpoint_is_damaged_is_the_run_that_never_stopped(cfg, run, tmp_path, capfd):
    workdir, _ = run
    copy = tmp_path / "resumed"
    shutil.copytree(workdir, copy)
    manifest = copy / "checkpoints" / "4" / "params" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "half a li')
    train.train(cfg, copy)
    said = capfd.readouterr().err
    assert f"WARNING: the checkpoint of step 4 in {copy / 'checkpoints'} is damaged" in said
    assert "going on from step 2; work since then is done again" in said and "resumed at step 2" in said
    assert (copy / "damaged" / "4").is_dir()
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (copy / name).read_bytes() == (workdir / name).read_bytes()
    _, params = hf.load_pretrained(str(workdir / "hf"))
    _, resumed = hf.load_pretrained(str(copy / "hf"))
    jax.tree.map(np.testing.assert_array_equal, params, resumed)


def test_running_a_finished_run_again_changes_nothing(cfg, run, tmp_path):
    workdir, _ = run
    shutil.copytree(workdir, tmp_path / "again")
    train.train(cfg, tmp_path / "again")
    for name in ("metrics.jsonl", "evaluations.jsonl", "results.json"):
        assert (tmp_path / "again" / name).read_bytes() == (workdir / name).read_bytes()


def test_a_workdir_belongs_to_one_config_until_the_change_is_accepted(run, tmp_path, capfd):
    workdir, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    longer = [*OVERRIDES, *BARE, "--config.train.steps=5"]
    command = ["train", "--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}", *longer]
    assert main.main(command) == exits.USER_ERROR
    error = capfd.readouterr().err
    assert "config.train.steps: 4 -> 5" in error and "--accept-config-change" in error and "Traceback" not in error
    assert main.main([*command, "--accept-config-change"]) == exits.DONE
    error = capfd.readouterr().err
    assert "changes: config.eval.baselines" in error and "resumed at step 4" in error
    assert [line["step"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    (change,) = read_lines(tmp_path / "run" / "config_changes.jsonl")
    assert change["step"] == 4 and "config.train.steps: 4 -> 5" in change["changed"]


def test_every_epoch_of_episodes_is_a_permutation():
    drawn = [i for step in range(6) for i in train.episode_indices(4, seed=0, position=2 * step, count=2)]
    assert sorted(drawn[:4]) == sorted(drawn[4:8]) == sorted(drawn[8:]) == [0, 1, 2, 3]
    assert drawn[:4] != drawn[4:8] or drawn[4:8] != drawn[8:]


def test_mini_batches_hold_every_group_once_per_pass(cfg):
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, epochs=2, mini_batches=3))
    batches = train.mini_batches(cfg, step=5, groups=6)
    assert [len(b) for b in batches] == [2] * 6
    assert sorted(g for b in batches[:3] for g in b) == sorted(g for b in batches[3:] for g in b) == list(range(6))


def test_the_reward_of_a_rigged_task_rises(tmp_path):
    """Only SKIP is ever right: with nothing but the compression reward the policy learns to write less."""
    overrides = [
        "--config.train.steps=12",
        "--config.train.episodes=2",
        "--config.train.mini_batches=2",
        "--config.train.group_size=8",
        "--config.mesh.data=1",
        "--config.train.eval_every=0",
        "--config.train.checkpoint_every=12",
        "--config.eval.episodes=8",
        "--config.eval.temperatures=(1.0,)",
        "--config.eval.baselines=()",
        "--config.engine.slots=16",
        "--config.optimizer.lr=2e-3",
        "--config.rewards.weights.format=0",
        "--config.rewards.weights.chunk_qa=0",
        "--config.rewards.weights.evidence=0",
        "--config.rewards.weights.compression=1",
    ]
    results = train.train(main.load_config("configs/quickstart.py", overrides), tmp_path)
    before, after = (results[f"{when} T=1"].metrics["memory_tokens"] for when in ("before", "after"))
    assert after < 0.8 * before


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """The config and the workdir of two steps of an adapter that is paid for the outcome alone."""
    outcome_only = ("--config.rewards.weights.chunk_qa=0", "--config.rewards.evidence.beta=0")
    small = ("--config.train.steps=2", "--config.model.lora.rank=4", "--config.optimizer.lr=1e-2")
    chosen = main.load_config("configs/quickstart.py", [*OVERRIDES, *BARE, *outcome_only, *small])
    workdir = tmp_path_factory.mktemp("lora")
    train.train(chosen, workdir)
    return chosen, workdir


def test_an_outcome_only_run_asks_no_chunk_questions(lora):
    for line in read_lines(lora[1] / "metrics.jsonl"):
        assert "reward/chunk_qa" not in line and "reward/evidence" in line


def test_lora_trains_the_adapters_alone_against_the_frozen_base(lora, tmp_path):
    chosen, workdir = lora
    lines = read_lines(workdir / "metrics.jsonl")
    assert lines[1]["loss/ref_kl"] > 1e-4  # the adapters moved away from the base
    start = load_policy(chosen)
    state = Checkpoints(workdir / "checkpoints", keep=3).restore_params(start.params)
    jax.tree.map(np.testing.assert_array_equal, without_adapters(start.params), without_adapters(state))
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (start.params, state)), strict=True)]
    assert max(moved) > 1e-3
    assert main.main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'peft'}", "--peft"]) == 0
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["r"] == 4
    assert json.loads((tmp_path / "peft" / "finemem.json").read_text())["prompt"]["name"] == "compact"
    model, merged = hf.load_pretrained(str(workdir / "hf"))
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    positions, ones = np.tile(np.arange(12, dtype=np.int32), (2, 1)), np.ones((2, 12), np.int32)
    trained = start.model.apply({"params": state}, tokens, positions, ones)
    np.testing.assert_allclose(model.apply({"params": merged}, tokens, positions, ones), trained, atol=1e-4)


def test_a_mesh_of_devices_trains_like_one(cfg, run, tmp_path):
    workdir, _ = run
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"]
    train.train(
        main.load_config("configs/quickstart.py", [*OVERRIDES, *BARE, *mesh, "--config.train.steps=1"]), tmp_path
    )
    one, eight = read_lines(workdir / "metrics.jsonl"), read_lines(tmp_path / "metrics.jsonl")
    # Gradients of equal parameters are compared in tests/rl; here the second update starts from updated ones.
    for name in ("loss/loss", "loss/nll", "reward/total", "accuracy"):
        assert eight[0][name] == pytest.approx(one[0][name], abs=1e-4), name


def test_a_run_that_draws_again_and_grows_its_episodes_goes_on_as_if_it_had_never_stopped(tmp_path):
    """Groups of two samples that often earn the same: they are paid for the questions about a chunk alone."""
    small = [
        "--config.train.group_size=2", "--config.train.resample=refill", "--config.train.resample_most=3",
        "--config.train.curriculum=(1, 2)", "--config.eval.episodes=2", "--config.loss.kl_coef=0",
        "--config.loss.ratio=sequence", "--config.loss.clip=cispo",
        *(f"--config.rewards.weights.{term}=0" for term in ("format", "evidence", "compression")),
    ]  # fmt: skip
    cfg = main.load_config("configs/quickstart.py", [*OVERRIDES, *BARE, *small])
    train.train(cfg, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "4")  # as if it had been killed after that of step 2
    train.train(cfg, tmp_path / "resumed")
    whole, resumed = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "resumed"))
    assert whole == resumed
    lines = read_lines(tmp_path / "whole" / "metrics.jsonl")
    assert all(2 <= line["groups_drawn"] <= 5 for line in lines) and any(line["groups_drawn"] > 2 for line in lines)
    chunks = [len(record["chunks"]) for record in read_lines(tmp_path / "whole" / "rollouts.jsonl")]
    assert chunks == [1, 1, 2, 2]
