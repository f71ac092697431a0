"""`finemem bench load`: what it prints, and the memory that loading takes."""

import json
import os
import subprocess
import sys

import pytest

from finemem_jax.main import main


def test_it_prints_time_memory_and_rates(capsys):
    assert main(["bench", "load", "--preset", "tiny", "--dtype", "float32"]) == 0
    report = json.loads(capsys.readouterr().out)
    count = report["parameters"]
    assert count > 100_000
    assert report["bytes_read"] == 2 * count and report["parameter_bytes"] == 4 * count  # bfloat16 to float32
    assert 0 < report["seconds"] <= report["first_seconds"] * 1.5
    assert report["bytes_per_second"] < report["safetensors_bytes_per_second"]


def test_an_unknown_preset_is_one_line_and_exit_code_2(capsys):
    assert main(["bench", "load", "--preset", "9000b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("finemem bench: ") and "9000b" in error and error.count("\n") == 1


@pytest.mark.slow
def test_loading_takes_less_than_1_2_of_the_largest_tensor_beside_the_parameters():
    command = [sys.executable, "-m", "finemem_jax.main", "bench", "load", "--preset", "0.6b"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["parameter_bytes"] > 1e9
    assert 0 < report["peak_bytes_above_parameters"] < 1.2 * report["largest_tensor_bytes"]
