"""A sweep runs what is missing, once, and its table says what the runs' own results say."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finemem_jax import config, exits, main, sweep
from finemem_jax.config import UserError
from finemem_jax.files import read_lines
from finemem_jax.reporting import sweep_table
from finemem_jax.run import workdir

ROOT = Path(__file__).parents[1]
ABLATIONS = sorted((ROOT / "configs" / "ablations").glob("*.py"))


def finished_run(workdir, row, seed, accuracy, *, before=0.25):
    """What a run of `finemem train` leaves, as far as a sweep reads it."""
    cfg = main.load_config(str(ROOT / f"configs/ablations/{row}.py"), [f"--config.seed={seed}"])
    folder = workdir / row / f"seed-{seed}"
    (folder / "hf").mkdir(parents=True, exist_ok=True)
    (folder / "hf" / "config.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(config.to_dict(cfg)))
    after = {"accuracy": accuracy, "accuracy/changed": accuracy / 2, "memory_tokens": 100.0 * accuracy}
    results = {
        "oracle": {"accuracy": 1.0, "memory_tokens": 30.0},
        "before T=1": {"step": 0, "policy": "T=1", "accuracy": before, "memory_tokens": 40.0},
        "before greedy": {"step": 0, "policy": "greedy", "accuracy": before, "memory_tokens": 40.0},
        "after T=1": after,
        "after greedy": after,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def command(workdir, configs="full", seeds="0,1,2", extra=()):
    specs = ",".join(str(ROOT / f"configs/ablations/{name}") for name in configs.split(","))
    return main.main(["sweep", f"--configs={specs}", f"--seeds={seeds}", f"--workdir={workdir}", *extra])


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_is_at_most_15_lines_over_its_base(path):
    assert len(path.read_text("utf-8").splitlines()) <= 15
    base = config.to_dict(main.load_config(str(ROOT / "configs/quickstart.py"), []))
    own = config.to_dict(main.load_config(str(path), []))
    assert {key for key in own if own[key] != base[key]} <= {
        "name",
        "rewards",
        "advantage",
        "retrieval",
        "train",
        "eval",
    }


def test_the_ablations_change_what_they_are_named_for():
    def load(spec):
        return main.load_config(str(ROOT / "configs/ablations" / spec), [])

    full = load("full.py")
    assert load("outcome_only.py").rewards.weights["chunk_qa"] == load("outcome_only.py").rewards.evidence.beta == 0
    assert load("csr.py").rewards.weights == full.rewards.weights and load("csr.py").rewards.evidence.beta == 0
    assert (
        load("eara.py").rewards.weights["chunk_qa"] == 0 and load("eara.py").rewards.evidence == full.rewards.evidence
    )
    assert [load(f"beta.py:{b}").rewards.evidence.beta for b in ("0", ".25", "1")] == [0, 0.25, 1]
    assert load("chunk_weight.py:0.25").rewards.weights["chunk_qa"] == 0.25
    assert load("compression_weight.py:0.2").rewards.weights["compression"] == 0.2
    assert load("retrieval_k.py:1").retrieval.k == 1
    assert load("std_none.py").advantage.std == "none"
    assert load("group_size.py:4").train.group_size == 4
    assert load("group_size.py:4").train.episodes * 4 == full.train.episodes * full.train.group_size
    assert load("uniform_attribution.py").rewards == load("csr.py").rewards


def test_the_interval_is_students():
    mean, half = sweep_table.mean_interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6)
    assert half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t(0.975, 2 degrees of freedom), tables
    assert math.isnan(sweep_table.mean_interval([0.5])[1]) and math.isnan(sweep_table.mean_interval([0.5, 0.6])[1])


def test_a_finished_sweep_runs_nothing_and_writes_the_table_of_its_results(tmp_path, capsys):
    accuracies = {
        "outcome_only": (0.4, 0.5, 0.6),
        "csr": (0.5, 0.5, 0.5),
        "eara": (0.3, 0.4, 0.5),
        "full": (0.55, 0.6, 0.65),
    }
    for row, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            finished_run(tmp_path, row, seed, accuracy, before=0.2 + 0.1 * seed)
    assert command(tmp_path, "outcome_only.py,csr.py,eara.py,full.py") == 0
    assert not list(tmp_path.rglob("log.txt"))  # no process was started
    text = (tmp_path / "sweep.md").read_text("utf-8")
    # gains are paired by seed: 0.2, 0.2, 0.2 for outcome_only, whose own spread is 0.1; 0.35, 0.3, 0.25 for full
    assert "| outcome_only | 3 | 0.300 ± 0.248 | 0.500 ± 0.248 | +0.200 ± 0.000 | 0.250 ± 0.124 | 50.0 ± 24.8 |" in text
    assert "| full | 3 | 0.300 ± 0.248 | 0.600 ± 0.124 | +0.300 ± 0.124 | 0.300 ± 0.062 | 60.0 ± 12.4 |" in text
    # The paper's ablation, in the rows of the same name.
    paper = {"outcome_only": "0.627 | 92.4K", "csr": "0.639 | 86.2K", "eara": "0.622 | 60.7K", "full": "0.663 | 79.1K"}
    rows = [line for line in text.splitlines() if line.startswith(tuple(f"| {name} |" for name in paper))]
    assert len(rows) == 2 * len(paper)  # at temperature 1 and greedy
    assert all(row.endswith(f"| {paper[row.split()[1]]} |") for row in rows) and "another scale" in text
    assert "| baseline oracle | 3 | – | 1.000 ± 0.000 | – |" in text
    assert text.count("finemem train --config=") == 12
    assert "another scale" in capsys.readouterr().out
    with (tmp_path / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    chosen = [x["value"] for x in lines if (x["config"], x["policy"], x["metric"]) == ("full", "after T=1", "accuracy")]
    assert [float(value) for value in chosen[:4]] == pytest.approx([0.55, 0.6, 0.65, 0.6])
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (
        tmp_path / "sweep.svg"
    ).read_text()


def test_two_seeds_have_no_interval_and_three_are_asked_for(tmp_path, capsys):
    """Student's t of two values that are .375 apart is ± 2.382."""
    for seed, accuracy in enumerate((0.125, 0.5)):
        finished_run(tmp_path, "full", seed, accuracy)
    assert command(tmp_path, "full.py", "0,1") == 0
    text = (tmp_path / "sweep.md").read_text("utf-8")
    assert "| full | 2 | 0.250 | 0.312 | +0.062 | 0.156 | 31.2 |" in text
    note = "An interval needs 3 seeds or more (--seeds=0,1,2): full has 2."
    assert note in text and note in capsys.readouterr().out


def test_rows_are_compared_episode_by_episode_also_where_a_budget_was_spent(tmp_path):
    """The difference is .1 in every episode of every seed, whatever the spread between episodes: the interval has no
    width. Where the tokens were spent it was .3."""
    for row, more in {"outcome_only": 0.0, "full": 0.1}.items():
        for seed in range(3):
            folder = finished_run(tmp_path, row, seed, 0.5 + more)
            path = folder / "results.json"
            spent = {"step": 4, "policy": "T=1", "accuracy": 0.2 + 3 * more, "memory_tokens": 9.0}
            path.write_text(json.dumps({"at budget_tokens T=1": spent, **json.loads(path.read_text())}))
            at_step = {0: [0.5, 0.5], 4: [0.1 + 3 * more, 0.3 + 3 * more], 9: [0.2 + more, 0.8 + more, None]}
            lines = [
                {"step": step, "policy": "T=1", "episodes": list("abc")[: len(scores)], "scores": scores,
                 "sources": ["diary"] * len(scores)}
                for step, scores in at_step.items()
            ]  # fmt: skip
            (folder / "heldout_scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command(tmp_path, "outcome_only.py,full.py") == 0
    text = (tmp_path / "sweep.md").read_text("utf-8")
    assert "| full - outcome_only | 3 | 2 | +0.100 (+0.100 to +0.100) |" in text  # "c" has no score
    assert "| full - outcome_only | 3 | 2 | +0.300 (+0.300 to +0.300) |" in text
    assert "T=1 at budget_tokens: mean" in text and "greedy at budget_tokens" not in text


def test_rows_are_compared_seed_by_seed(tmp_path):
    for row, values in {"outcome_only": (0.2, 0.5, 0.8), "full": (0.3, 0.6, 0.9, 0.9)}.items():
        for seed, accuracy in enumerate(values):
            finished_run(tmp_path, row, seed, accuracy)
    runs = [
        sweep.Run(row, seed, main.load_config(str(ROOT / f"configs/ablations/{row}.py"), [f"--config.seed={seed}"]),
                  tmp_path / row / f"seed-{seed}", ("train",))
        for row, seeds in {"outcome_only": 3, "full": 4}.items() for seed in range(seeds)
    ]  # fmt: skip
    (pair,) = sweep_table.paired_rows(sweep.compare(runs))
    assert (pair.name, pair.seeds) == ("full - outcome_only", (0, 1, 2))  # the seed of one row alone is left out
    assert pair.values["after T=1"]["accuracy"] == pytest.approx([0.1] * 3)
    sweep_table.write_sweep(tmp_path, sweep.compare(runs))
    # The rows themselves spread by ± .745: it is the seed that does, and the difference is free of it.
    text = (tmp_path / "sweep.md").read_text("utf-8")
    assert "| full - outcome_only | 3 | +0.100 ± 0.000 | +0.050 ± 0.000 | +10.0 ± 0.0 |" in text
    assert "| outcome_only | 3 | 0.250 ± 0.000 | 0.500 ± 0.745 |" in text
    with (tmp_path / "sweep.csv").open() as file:
        kinds = {x["seed"]: float(x["value"]) for x in csv.DictReader(file) if x["config"] == pair.name}
    assert kinds["interval95"] == pytest.approx(0, abs=1e-9) and kinds["2"] == pytest.approx(10.0)


def test_what_a_row_takes_stands_beside_what_it_is_worth(tmp_path):
    """Accuracy per memory is of each seed; what training took is summed over its steps, or their last count."""
    for seed, accuracy in enumerate((0.2, 0.4)):
        folder = finished_run(tmp_path, "full", seed, accuracy)
        lines = [{"step": s, "seconds/rollout": 30.0, "seconds/update": 60.0 * seed, "budget/tokens": 5000 * (s + 1),
                  "budget/answers": 7 * (s + 1)} for s in range(2)]  # fmt: skip
        (folder / "timings.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        results = json.loads((folder / "results.json").read_text())
        results["after T=1"] |= {"written_tokens": 10.0 * (seed + 1), "asked": 3.0}
        (folder / "results.json").write_text(json.dumps(results))
        finished_run(tmp_path, "csr", seed, 0.5)  # whose runs say nothing of it
    assert command(tmp_path, "full.py,csr.py", seeds="0,1") == 0
    text = (tmp_path / "sweep.md").read_text("utf-8")
    # 0.2 / 20 tokens and 0.4 / 40 tokens are 10 per thousand each; 1 and 3 minutes
    assert "| full | 0.300 | 10.00 | 30.0 | 15.0 | 3.0 | 10.0 | 14 | 2.0 |" in text
    assert "| full | 0.300 | 10.00 | 30.0 | – | – | 10.0 | 14 | 2.0 |" in text  # greedy


def test_no_axis_goes_beyond_what_a_metric_can_be(tmp_path, monkeypatch):
    axes = []
    monkeypatch.setattr(sweep_table.plt, "close", lambda figure: axes.append(figure.axes))
    values = {"accuracy": [0.02, 0.5, 0.98], "memory_tokens": [0.0, 1.0, 90.0]}
    row = sweep_table.Row("full", (0, 1, 2), {"after T=1": values, "after greedy": values}, ())
    assert sweep_table.mean_interval(values["accuracy"])[1] > 1.0
    sweep_table.plot_sweep(tmp_path / "sweep", [row])
    (left, right), bounds = axes[0], ((0.0, 1.0), (0.0, float("inf")))
    for axis, (low, high) in zip((left, right), bounds, strict=True):
        drawn = [x for line in axis.lines for x in line.get_xdata()]
        drawn += [x for bar in axis.collections for path in bar.get_paths() for x in path.vertices[:, 0]]
        assert low <= min(drawn) and max(drawn) <= high
        assert low <= axis.get_xlim()[0] and axis.get_xlim()[1] <= high


def test_a_row_counts_the_seeds_it_has(tmp_path):
    finished_run(tmp_path, "full", 0, 0.5)
    runs = [
        sweep.Run("full", seed, main.load_config(str(ABLATIONS[0].parent / "full.py"), [f"--config.seed={seed}"]),
                  tmp_path / "full" / f"seed-{seed}", ("train",))
        for seed in (0, 1)
    ]  # fmt: skip
    (row,) = sweep.compare(runs)
    assert row.seeds == (0,) and row.values["after T=1"]["accuracy"] == [0.5]
    assert row.commands == ("finemem train", "finemem train")


def test_a_row_of_which_a_seed_got_no_answers_has_no_accuracy(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        path = finished_run(tmp_path, "full", seed, accuracy) / "results.json"
        if seed:
            results = json.loads(path.read_text())
            for policy in ("after T=1", "after greedy"):
                results[policy]["accuracy"] = None
            path.write_text(json.dumps(results))
    assert command(tmp_path) == 0
    table = (tmp_path / "sweep.md").read_text()
    (row, *_) = (line.split(" | ") for line in table.splitlines() if line.startswith("| full |"))
    assert row[1:6] == ["3", "0.250 ± 0.000", "–", "–", "0.300 ± 0.124"]  # before, after, gain, changed
    assert '"accuracy"' not in json.dumps(json.loads((tmp_path / "sweep.json").read_text())[0]["values"]["after T=1"])


def test_a_folder_of_another_config_is_refused(tmp_path, capsys):
    folder = finished_run(tmp_path, "full", 0, 0.5)
    assert command(tmp_path, "full.py", "0", ["--config.optimizer.lr=0.5"]) == 2
    assert f"{folder} holds a run with another config" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", ["config.json", "results.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_file_makes_a_run_unfinished(damaged, content, tmp_path):
    folder = finished_run(tmp_path, "full", 0, 0.5)
    cfg = main.load_config(str(ROOT / "configs/ablations/full.py"), ["--config.seed=0"])
    run = sweep.Run("full", 0, cfg, folder, ("train",))
    assert run.is_finished()
    (folder / damaged).write_bytes(content)
    if (damaged, content) == ("config.json", b'{"a": 1}'):  # a config, of another schema
        assert run.is_finished()
    else:
        assert not run.is_finished() and sweep.compare([run]) == []


def test_a_field_that_came_into_the_schema_later_makes_no_other_run(tmp_path):
    folder = finished_run(tmp_path, "full", 0, 0.5)
    stored = json.loads((folder / "config.json").read_text())
    del stored["train"]["log_rollouts"]
    (folder / "config.json").write_text(json.dumps(stored | {"later": 1}))
    assert command(tmp_path, "full.py", "0") == 0 and not (folder / "log.txt").exists()


@pytest.mark.parametrize(
    ("configs", "seeds", "extra", "message"),
    [
        ("full.py,full.py", "0", [], "name full with seed 0 twice"),
        ("full.py", "0,x", [], "--seeds=0,x"),
        ("full.py", "0", ["--config.seed=3"], "takes its seeds from --seeds"),
        ("full.py", "0", ["--jobs=0"], "--jobs=0: must be at least 1"),
        ("fool.py", "0", [], "no config file"),
        ("beta.py:../x", "0", [], "an argument may hold"),
        ("beta.py:many", "0", [], "could not convert string to float"),
    ],
)
def test_mistakes_are_found_before_anything_runs(configs, seeds, extra, message, tmp_path, capsys):
    assert command(tmp_path / "sweep", configs, seeds, extra) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "sweep").exists()


def test_gpus_are_divided_among_the_jobs(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5")
    shares = [e["CUDA_VISIBLE_DEVICES"] for e in sweep._environments(2, tmp_path)]
    assert shares == ["0,1", "2,5"]
    with pytest.raises(UserError, match="--jobs=5: there are 4 GPUs"):
        sweep._environments(5, tmp_path)


def test_a_sweep_runs_real_processes_at_once_goes_on_after_a_failure_and_leaves_the_finished_alone(tmp_path, capsys):
    small = ["--config.eval.episodes=2", "--config.data.diary.eval_episodes=2", "--config.mesh.data=1"]
    broken = tmp_path / "full" / "seed-0"  # the first run fails: its folder holds another run
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{}")
    assert command(tmp_path, "full.py,store_all.py", "0", [*small, "--jobs=2"]) == exits.RUN_FAILED
    error = capsys.readouterr().err
    assert "full seed 0: exit code 2" in error and "store_all seed 0: done" in error
    assert max(error.index(f"{row} seed 0: started") for row in ("full", "store_all")) < error.index("exit code 2")
    assert "holds a run with another config" in error  # the last lines of its log
    text = (tmp_path / "sweep.md").read_text("utf-8")
    results = json.loads((tmp_path / "store_all" / "seed-0" / "results.json").read_text())
    assert f"| baseline store_all | 1 | – | {results['store_all']['accuracy']:.3f} |" in text
    before = (tmp_path / "store_all" / "seed-0" / "log.txt").stat()
    assert command(tmp_path, "store_all.py", "0", small) == 0
    assert (tmp_path / "store_all" / "seed-0" / "log.txt").stat() == before


# --------------------------------------------------------------------------------------------------------------
# Ctrl-C, SIGKILL and two at once, for real
# --------------------------------------------------------------------------------------------------------------

SECONDS = 900  # for anything to happen on a busy machine
# Runs that go on until they are told to end: on one of the suite's eight devices, with steps for days.
ENDLESS = ("--config.mesh.data=1", "--config.train.steps=1000000")


def start_sweep(workdir, *options, configs="full.py", seeds="0,1"):
    """`finemem sweep` of two runs at once, in a process of its own."""
    arguments = [f"--configs={ROOT / 'configs/ablations' / configs}", f"--seeds={seeds}", "--jobs=2"]
    return subprocess.Popen(
        [sys.executable, "-m", "finemem_jax.main", "sweep", *arguments, f"--workdir={workdir}", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def started():
    """Sweeps to be ended, with what is left of their runs, whatever becomes of the test."""
    processes, folders = [], []

    def start(workdir, *options, **kwargs):
        processes.append(start_sweep(workdir, *options, **kwargs))
        folders.append(workdir)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    for folder in folders:
        for pid in runs_under(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def runs_under(workdir):
    """Ids of the living processes that train in a folder of the sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended while we looked
            words = path.read_bytes().split(b"\0")
            if any(word.startswith(f"--workdir={workdir}/".encode()) for word in words):
                found.append(int(path.parent.name))
    return found


def wait_for(condition, process=None):
    """Until the condition holds; as long as the process lives, if one is given."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_a_sweep_and_its_runs(tmp_path, started):
    process = started(tmp_path, *ENDLESS)
    wait_for(lambda: len(runs_under(tmp_path)) == 2, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == exits.INTERRUPTED and "Traceback" not in error, error
    assert runs_under(tmp_path) == [] and not (tmp_path / "sweep.md").exists()


def test_a_killed_sweep_takes_its_runs_along(tmp_path, started):
    process = started(tmp_path, *ENDLESS)
    wait_for(lambda: len(runs_under(tmp_path)) == 2, process)
    process.kill()
    wait_for(lambda: not runs_under(tmp_path))
    for seed in (0, 1):
        assert "is gone: the run ends, too" in (tmp_path / "full" / f"seed-{seed}" / "log.txt").read_text("utf-8")


STAYING = """
import signal, sys, threading
from finemem_jax import attached
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
attached.watch(int(sys.argv[1]))
print("ready", flush=True)
told.wait()
print("saved", flush=True)
"""


def test_a_run_hears_of_the_end_of_its_starter_as_of_a_preemption():
    end, life = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", STAYING, str(end)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=(end,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        os.close(end)
        assert process.stdout.readline() == "ready\n"
        os.close(life)
        output, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 0 and output == "saved\n" and "is gone: the run ends, too" in error
    finally:
        process.kill()


def test_a_folder_belongs_to_one_sweep(tmp_path, capsys):
    with workdir.locked(tmp_path):
        assert command(tmp_path, "full.py", "0") == 2
    assert f"{tmp_path} is in use" in capsys.readouterr().err and not (tmp_path / "full").exists()
    finished_run(tmp_path, "full", 0, 0.5)
    assert command(tmp_path, "full.py", "0") == 0


def test_a_run_that_another_process_has_is_waited_for_and_counted(tmp_path, started):
    """What a killed sweep leaves behind: a run that still saves. It ends, here with results, while the sweep waits."""
    for seed in (0, 1):
        (tmp_path / "full" / f"seed-{seed}").mkdir(parents=True)
    with workdir.locked(tmp_path / "full" / "seed-0"), workdir.locked(tmp_path / "full" / "seed-1"):
        process = started(tmp_path)
        said = ""
        while said.count("waiting for process") < 2:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert f"full seed 1: waiting for process {os.getpid()} on" in said
        for seed in (0, 1):
            finished_run(tmp_path, "full", seed, 0.5)
    _, rest = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and rest.count("done by another process") == 2, rest
    assert not list(tmp_path.rglob("log.txt")) and "| full | 2 |" in (tmp_path / "sweep.md").read_text("utf-8")


@pytest.mark.slow
def test_a_sweep_after_ctrl_c_has_lost_nothing_and_goes_on(tmp_path):
    tiny = [
        "--config.mesh.data=1",
        "--config.train.steps=30",
        "--config.train.episodes=1",
        "--config.train.group_size=2",
        "--config.train.mini_batches=1",
        "--config.train.checkpoint_every=30",  # what is found after Ctrl-C was saved because of it
        "--config.train.eval_every=0",
        "--config.eval.episodes=1",
        "--config.eval.baselines=()",
        "--config.engine.slots=4",
        "--config.guards.grace=900",
    ]
    places = [tmp_path / "full" / f"seed-{seed}" for seed in (0, 1)]
    process = start_sweep(tmp_path, *tiny)
    wait_for(lambda: all(steps_of(place) for place in places), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == exits.INTERRUPTED and runs_under(tmp_path) == [], error
    saved = {place: len(steps_of(place)) for place in places}
    for place, steps in saved.items():
        assert f"SIGTERM; saved after step {steps}; the same command goes on" in (place / "log.txt").read_text("utf-8")
    assert min(saved.values()) < 30
    process = start_sweep(tmp_path, *tiny)
    assert process.communicate(timeout=SECONDS) and process.returncode == 0
    for place, steps in saved.items():
        assert f"resumed at step {steps} from" in (place / "log.txt").read_text("utf-8") or steps == 30
        assert steps_of(place) == list(range(30))
    assert "| full | 2 |" in (tmp_path / "sweep.md").read_text("utf-8")


def steps_of(workdir):
    path = workdir / "metrics.jsonl"
    return [line["step"] for line in read_lines(path)] if path.exists() else []
