"""An export replaces what an export wrote, and nothing else; a killed one leaves nothing for good."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax import exits, main
from finemem_jax.config import UserError
from finemem_jax.weights.export_folder import MARKER, claim_place, new_folder


def export(path: Path, content: str = "weights") -> None:
    with new_folder(path) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(content)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_export_takes_the_place_of_an_earlier_one(tmp_path):
    (tmp_path / "out").mkdir()  # an empty folder is nobody's
    for text in ("first", "second"):
        export(tmp_path / "out", text)
        assert (tmp_path / "out" / "model.safetensors").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def a_run(folder: Path) -> None:
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}\n")


def a_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "model.safetensors").write_text("somebody's")


def adapters(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def an_export_with_a_note(folder: Path) -> None:
    export(folder)
    (folder / "notes.txt").write_text("mine")


def an_export_with_a_run_inside(folder: Path) -> None:
    export(folder)
    a_run(folder / "run")


def an_export_with_a_link(folder: Path) -> None:
    export(folder)
    (folder / "data").symlink_to(folder.parent)


def a_broken_marker(folder: Path) -> None:
    export(folder)
    (folder / MARKER).write_text("[]")


def only_a_folder(folder: Path) -> None:
    (folder / "empty").mkdir()


@pytest.mark.parametrize(
    "fill",
    [
        a_run,
        a_model,
        adapters,
        an_export_with_a_note,
        an_export_with_a_run_inside,
        an_export_with_a_link,
        a_broken_marker,
        only_a_folder,
    ],
)
def test_a_folder_that_holds_anything_else_is_refused_and_untouched(tmp_path, fill):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out")
    before = content(tmp_path)
    with pytest.raises(UserError, match="replaces the whole folder") as refused:
        export(tmp_path / "out")
    assert "\n" not in str(refused.value) and content(tmp_path) == before and (tmp_path / "out").is_dir()


def test_the_command_refuses_before_it_loads_anything(tmp_path, capsys):
    """The run is not even one that could be exported: the place is looked at first."""
    a_run(tmp_path / "run")
    before = content(tmp_path)
    for out in (tmp_path / "run", tmp_path, tmp_path / "run" / "checkpoints", tmp_path / "run" / "config.json"):
        assert main.main(["export", f"--workdir={tmp_path / 'run'}", f"--out={out}"]) == exits.USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert "choose another place" in line
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("command", "why"), [("train", "was not written by an export"), ("sft", "holds something else (hf)")]
)
def test_a_run_whose_hf_folder_is_somebody_elses_is_refused_before_its_work(tmp_path, capsys, command, why):
    (tmp_path / "hf").mkdir()
    a_model(tmp_path / "hf")
    config = {"train": "configs/quickstart.py", "sft": "configs/warm_start.py"}[command]
    assert main.main([command, f"--config={config}", f"--workdir={tmp_path}"]) == exits.USER_ERROR
    assert why in capsys.readouterr().err
    assert (tmp_path / "hf" / "model.safetensors").read_text() == "somebody's"


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "link").symlink_to("real")
    for text in ("first", "second"):
        export(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "model.safetensors").read_text() == text


KILLED = """
import os, pathlib, signal, sys
from finemem_jax.weights import export_folder
if sys.argv[2] == "between":
    rename = pathlib.Path.rename
    def stop(self, target):
        if "partial" in self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    pathlib.Path.rename = stop
with export_folder.new_folder(sys.argv[1]) as folder:
    (folder / "model.safetensors").write_text("half")
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "waits":
        print("ready", flush=True)
        sys.stdin.read()
"""


def killed(path: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), when], env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode < 0


@pytest.mark.parametrize("when", ["inside", "between"])
def test_what_a_killed_export_left_is_gone_at_the_next_start_and_the_earlier_one_is_back(tmp_path, when):
    export(tmp_path / "out", "whole")
    killed(tmp_path / "out", when)
    assert len(list(tmp_path.iterdir())) == 2
    claim_place(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_text() == "whole"


def test_an_export_that_is_at_work_is_left_alone(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), "waits"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        claim_place(tmp_path / "out")
        assert len(list(tmp_path.iterdir())) == 1
    assert other.returncode == 0 and (tmp_path / "out" / "model.safetensors").is_file()


def test_a_folder_that_only_looks_like_what_was_left_is_kept(tmp_path):
    for name in (".out.partial-mine", ".out.old-1x", ".other.partial-12"):
        (tmp_path / name).mkdir()
    claim_place(tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 3


def test_others_may_read_an_export_as_the_umask_says(model, params, tmp_path):
    from finemem_jax.weights import hf

    before = os.umask(0o027)
    try:
        hf.save_pretrained(tmp_path / "out", model, params, max_shard_bytes=200_000)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert len(modes) > 5 and set(modes.values()) == {0o640}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    shutil.rmtree(tmp_path / "out")
