"""The endpoint answerer against a real server, `transformers serve`, with a tiny model of ours."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from finemem_jax import Manager, config, evaluate, main
from finemem_jax.chat.engine import EngineChat
from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.env.settings import settings_file
from finemem_jax.env.tokenizer import load
from finemem_jax.loading import OpenPolicies, load_answerer, load_environment, load_given, load_held_out
from finemem_jax.types import AnswerRequest, Retrieved
from finemem_jax.weights import hf
from tests.ports import reserve_port

for needed in ("torch", "fastapi", "uvicorn"):
    pytest.importorskip(needed)

STARTING_SECONDS = 600.0  # importing torch on a busy machine


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(base URL, folder of the model) of a running server."""
    folder = tmp_path_factory.mktemp("model")
    cfg = main.load_config("configs/quickstart.py", [])
    engine = OpenPolicies().open(load_given(cfg, "", folder), 0.0)
    tokenizer = load(cfg.model.path)
    hf.save_pretrained(folder / "tiny", engine.model, engine.params, tokenizer, files=settings_file(cfg))
    port = reserve_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", folder / "tiny", "--port", port]
    command += ["--device", "cpu", "--log-level", "error"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + STARTING_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=20.0).close()
                break
            except OSError:
                log_text = (folder / "log").read_text()
                assert server.poll() is None and time.monotonic() < deadline, log_text[-2000:]
                time.sleep(0.3)
        yield f"http://localhost:{port}/v1", folder / "tiny"
    finally:
        server.kill()
        server.wait()


def settings(served, **values) -> AnswererConfig:
    url, folder = served
    return AnswererConfig(**({"name": "endpoint", "url": url, "model": str(folder), "max_tokens": 12} | values))


def requests(count):
    items = tuple(Retrieved(f"#{i}", 0, (0,), f"Maya's dentist is number {i}", 1.0) for i in range(3))
    return [AnswerRequest(f"what is Maya's dentist of day {i}?", items) for i in range(count)]


def create(cfg):
    return config.resolve("finemem_jax.answerers", "endpoint").create(cfg)


def test_everything_is_answered_with_its_tokens_and_a_second_run_costs_no_calls(served, tmp_path):
    cfg = settings(served, concurrency=4, cache=str(tmp_path / "answers.sqlite"))
    first = create(cfg)
    replies = [future.result() for future in first.submit(requests(12))]
    assert all(isinstance(reply.text, str) for reply in replies) and any(reply.text for reply in replies)
    assert all(reply.prompt_tokens > 20 and 0 < reply.completion_tokens <= 12 for reply in replies)
    assert first.chat.chat.traffic.replies == 12
    second = create(cfg)
    assert second.answer(requests(12)) == [reply.text for reply in replies]
    assert second.chat.chat.traffic.replies == 0 and second.chat.hits == 12


def test_the_local_answerer_says_what_the_served_model_says(served):
    """Same model, same prompt, greedy: one answers in our engine, the other in transformers."""
    _, folder = served
    cfg = settings(served, temperature=0.0)
    base = main.load_config("configs/quickstart.py", ["--config.engine.slots=4", "--config.engine.cache_tokens=512"])
    engine = OpenPolicies().open(load_given(base, str(folder), folder), 0.0)
    chat = EngineChat(engine, load(str(folder)), settings(served, temperature=0.0, context_tokens=512), "answerer")
    local = config.resolve("finemem_jax.answerers", "local").create(cfg, chat)
    mine, theirs = local.answer(requests(6)), create(cfg).answer(requests(6))
    assert mine == theirs and any(mine)


def test_a_model_that_is_not_served_is_a_mistake_in_one_line_or_missing(served):
    cfg = settings(served, model="no/such-model", retries=0)
    try:
        assert create(cfg).answer(requests(1)) == [None]
    except UserError as error:
        assert "no/such-model" in str(error) and "\n" not in str(error)


def test_the_served_quickstart_reads_the_prompts_of_its_training_and_writes_the_same_memory(served, tmp_path):
    """Whatever prompt the config of the evaluation names: the folder knows what it was trained on."""
    url, folder = served
    overrides = [
        f"--config.model.path={folder}",
        f"--config.eval.policy_model={folder}",
        "--config.prompt.name=full",
        "--config.prompt.codec=lines",
        "--config.engine.slots=8",
    ]
    cfg = main.load_config("configs/quickstart.py", overrides)
    episodes = list(itertools.islice(load_held_out(cfg), 4))
    answerer, opened, played = load_answerer(cfg, tmp_path), OpenPolicies(), {}
    for given in (str(folder), url):
        loaded = load_given(cfg, given, tmp_path)
        player = evaluate._Player(loaded, load_environment(loaded.cfg, loaded.tokenizer), answerer, opened)
        played[given] = player.play(episodes, 0.0)
    local, remote = played[str(folder)], played[url]
    for mine, theirs in zip(local, remote, strict=True):
        assert [step.prompt_tokens for step in mine.steps] == [step.prompt_tokens for step in theirs.steps]
        assert [step.text for step in mine.steps] == [step.text for step in theirs.steps]
        assert mine.steps[-1].memory_after.items == theirs.steps[-1].memory_after.items
        assert len(mine.steps) == len(mine.episode.chunks)
    assert all(rollout.steps[-1].memory_after.items for rollout in local)
    assert len(local[0].steps[0].prompt_tokens) < 100  # compact, not full


def test_a_manager_in_use_writes_the_memory_that_an_evaluation_of_it_has(served, tmp_path):
    """The same weights, the same text: over HTTP, and in our engine; item for item."""
    url, folder = served
    cfg = main.load_config("configs/quickstart.py", ["--config.engine.slots=8"])
    episodes = list(itertools.islice(load_held_out(cfg), 3))
    loaded = load_given(cfg, str(folder), tmp_path)
    env = load_environment(loaded.cfg, loaded.tokenizer)
    player = evaluate._Player(loaded, env, load_answerer(cfg, tmp_path), OpenPolicies())
    evaluated = [rollout.memory.items for rollout in player.play(episodes, 0.0)]
    remote = Manager(url, tmp_path / "remote.sqlite", {"folder": str(folder), "served_name": str(folder)})
    local = Manager(str(folder), tmp_path / "local.sqlite")
    for manager in (remote, local):
        for episode in episodes:
            for chunk in episode.chunks:
                assert manager.read(chunk.text, user=episode.id).parts == 1
        held = [manager._held[episode.id].memory.items for episode in episodes]
        assert held == evaluated and any(held)
        stored = [[(item.id, item.text, item.turn) for item in manager.items(user=e.id)] for e in episodes]
        assert stored == [[(item.id, item.text, item.written_at) for item in items] for items in evaluated]
