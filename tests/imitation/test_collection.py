"""What is kept of a group of rollouts, and a collection that stops and goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from finemem_jax import exits, main
from finemem_jax.config import AdvantageConfig, resolve
from finemem_jax.env.environment import all_questions
from finemem_jax.files import read_lines
from finemem_jax.imitation.selection import Selection, best, group_record
from finemem_jax.imitation.traces import read_traces, render_traces
from finemem_jax.loading import load_answerer, load_environment, load_tokenizer
from finemem_jax.rollouts.collect import Job, play_scripted
from tests import fakes
from tests.fake_server import FakeServer


def test_the_best_of_a_group_lie_above_its_mean():
    cfg = AdvantageConfig()
    rewards = np.array([0.2, 0.9, 0.9, 0.4])
    assert best(rewards, range(4), 1, cfg) == [1]
    assert best(rewards, range(4), 3, cfg) == [1, 2]  # 0.4 is below the mean
    assert best(rewards, [0, 3], 3, cfg) == []
    assert best(np.array([0.7, 0.7, 0.7]), range(3), 1, cfg) == []  # all alike
    assert best(np.array([0.7, 0.705, 0.7]), range(3), 1, cfg) == []  # by less than advantage.min_std
    assert best(np.array([0.2, np.nan, 0.9]), range(3), 1, cfg) == []


@pytest.fixture(scope="module")
def played():
    """(config, environment, a group in which the oracle is sample 1, a clumsy oracle sample 2)."""
    cfg = main.load_config("configs/quickstart.py", [])
    env = load_environment(cfg, load_tokenizer(cfg))
    episode = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0)[0]
    oracle = fakes.writer("oracle", cfg)

    def clumsy(episode, turn):
        written = oracle(episode, turn)
        return [*written[:2], written[0]] if turn.chunk == 1 else written  # a duplicate

    answerer = load_answerer(cfg, Path("unused"))
    job = Job(episode, all_questions(episode, chunk_questions=True))
    nothing = fakes.writer("no_memory")
    writers = [nothing, oracle, clumsy, nothing]
    return cfg, env, [play_scripted(env, answerer, [job], write)[0] for write in writers]


def test_the_best_rollout_becomes_traces_that_are_rendered_as_it_was_prompted(played):
    cfg, env, group = played
    found = group_record(group, env, cfg, Selection(keep=1))
    assert found["kept"] == [1] and found["rewards"][1] > found["rewards"][2] > found["rewards"][0]
    assert [trace["step"] for trace in found["traces"]] == list(range(len(group[1].steps)))
    assert {trace["reward"] for trace in found["traces"]} == {found["rewards"][1]}


def test_turns_that_failed_are_left_out_and_those_that_samples_share_are_kept_once(played):
    cfg, env, group = played
    found = group_record(group, env, cfg, Selection(keep=2))
    assert found["kept"] == [1, 2]
    by_sample = {s: [t["step"] for t in found["traces"] if t["sample"] == s] for s in (1, 2)}
    assert by_sample[1] == list(range(len(group[1].steps)))
    assert 0 not in by_sample[2] and 1 not in by_sample[2]  # chunk 0 as the oracle; chunk 1 has a duplicate
    assert group_record(group, env, cfg, Selection(keep=2, valid="rollout"))["kept"] == [1]


def test_a_group_that_lacks_an_answer_keeps_nothing(played):
    cfg, env, group = played
    first = group[0]
    lost = dataclasses.replace(first, answers=(dataclasses.replace(first.answers[0], score=None), *first.answers[1:]))
    only = dataclasses.replace(cfg, rewards=dataclasses.replace(cfg.rewards, chunk_questions=1))
    one = [dataclasses.replace(r, answers=(r.answers[0],)) for r in [lost, *group[1:]]]
    found = group_record(one, env, only, Selection())
    assert found["kept"] == [] and found["rewards"] == [None] * 4
    cut = dataclasses.replace(group[0], steps=group[0].steps[:1])  # its server gave no reply
    assert group_record([cut, *group[1:]], env, cfg, Selection())["kept"] == []


COLLECT = (
    "collect-traces",
    "--config=configs/quickstart.py",
    "--episodes=4",
    "--samples=4",
    "--config.eval.block=2",
    "--config.engine.slots=16",
    "--config.mesh.data=1",
)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("collected")
    assert main.main([*COLLECT, f"--workdir={workdir}"]) == exits.DONE
    return workdir


def test_what_the_policy_wrote_best_is_what_sft_reads(collected):
    records = [json.loads(line)["record"] for line in (collected / "collected.jsonl").read_text().splitlines()[1:]]
    traces = read_lines(collected / "traces.jsonl")
    assert len(records) == 4 and traces == [trace for found in records for trace in found["traces"]]
    for found in records:
        for sample in found["kept"]:
            assert found["rewards"][sample] == max(found["rewards"]) > np.mean(found["rewards"])
    cfg = main.load_config("configs/quickstart.py", [])
    examples, left_out = render_traces(
        read_traces(collected / "traces.jsonl"), load_environment(cfg, load_tokenizer(cfg))
    )
    assert len(examples) == len(traces) > 4 and not left_out


def test_a_collection_that_was_killed_goes_on_and_ends_with_the_same_traces(collected, tmp_path):
    whole = (collected / "collected.jsonl").read_text().splitlines(keepends=True)
    for kept in (1, 3, 4):  # nothing, a block, a block and a half
        workdir = tmp_path / str(kept)
        workdir.mkdir()
        (workdir / "command.txt").write_text("collect-traces\n")
        (workdir / "collected.jsonl").write_text("".join(whole[:kept]) + whole[-1][:40])
        assert main.main([*COLLECT, f"--workdir={workdir}"]) == exits.DONE
        assert (workdir / "traces.jsonl").read_bytes() == (collected / "traces.jsonl").read_bytes()


def test_a_folder_with_other_traces_is_refused(collected, tmp_path, capfd):
    before = (collected / "traces.jsonl").read_bytes()
    for option in ("--samples=3", "--keep=2", "--config.seed=1", "--config.train.temperature=0.5"):
        assert main.main([*COLLECT, f"--workdir={collected}", option]) == exits.USER_ERROR
        assert "holds traces of another policy, config or selection" in capfd.readouterr().err
    assert (collected / "traces.jsonl").read_bytes() == before
    (tmp_path / "mine.txt").touch()
    assert main.main([*COLLECT, f"--workdir={tmp_path}"]) == exits.USER_ERROR
    assert "holds something else (mine.txt)" in capfd.readouterr().err
    assert main.main([*COLLECT, f"--workdir={tmp_path / 'new'}", "--samples=1"]) == exits.USER_ERROR
    assert "--samples=1: must be at least 2" in capfd.readouterr().err


def test_a_served_policy_is_asked_once_a_sample_and_one_that_never_differs_has_nothing_to_imitate(tmp_path, capfd):
    with FakeServer() as server:
        server.reply = lambda question: '<tool_call>\n{"name": "memory_skip", "arguments": {}}\n</tool_call>'
        served = ("--config.eval.policy_model=m", f"--policy={server.url}", "--config.prompt.max_prompt_tokens=320")
        served += ("--config.model.path=", "--config.model.tokenizer=embedded:warm_start")  # its prompts are its own
        command = [*COLLECT, *served, "--episodes=1", f"--workdir={tmp_path / 'served'}"]
        assert main.main(command) == exits.STOPPED
        asked = len(server.bodies)
        seeds = [body["seed"] for body in server.bodies]
        assert len(set(seeds)) == 4 and {seeds.count(seed) for seed in seeds} == {asked // 4}
        error = capfd.readouterr().err
        assert "nothing to imitate: of 1 groups of 4 none had a rollout above its mean" in error
        assert main.main(command) == exits.STOPPED and len(server.bodies) == asked  # nothing is asked again
