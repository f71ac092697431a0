"""A folder belongs to one config and one process at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax.config import Config, UserError
from finemem_jax.files import read_lines
from finemem_jax.run import workdir

ROOT = Path(__file__).parents[2]

HOLDER = """
import sys, time
from pathlib import Path
from finemem_jax.run import workdir
with workdir.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_stops_a_second_process_and_dies_with_its_holder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=rf"in use by another run \(process {holder.pid} on "),
            workdir.locked(tmp_path),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with workdir.locked(tmp_path):  # nothing to clean up by hand
        pass


def test_a_lock_that_is_a_link_is_refused_and_its_target_is_untouched(tmp_path):
    precious = tmp_path / "thesis"
    precious.write_text("years of work")
    for make in (lambda lock: lock.symlink_to(precious), lambda lock: lock.hardlink_to(precious)):
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        make(run / ".lock")
        with pytest.raises(UserError, match=r"\.lock is (a link|not the lock of a run)"), workdir.locked(run):
            pass
        assert workdir.holder(run) == "" and precious.read_text() == "years of work"
        (run / ".lock").unlink()
    (run / ".lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError), workdir.locked(run):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_a_file_of_somebody_elses_is_no_lock(tmp_path):
    for content in ("packages: 3\n", "process " + "x" * 500):
        (tmp_path / ".lock").write_text(content)
        with pytest.raises(UserError, match="not the lock of a run"), workdir.locked(tmp_path):
            pass
        assert (tmp_path / ".lock").read_text() == content
    (tmp_path / ".lock").unlink()
    for _ in range(2):
        with workdir.locked(tmp_path):
            assert (tmp_path / ".lock").read_text().strip().startswith(f"process {os.getpid()} on ")


def test_a_folder_belongs_to_one_config_until_the_change_is_accepted(tmp_path):
    cfg = Config()
    assert workdir.claim(cfg, tmp_path) == []
    workdir.store_config(cfg, tmp_path)
    assert workdir.claim(cfg, tmp_path) == []
    assert workdir.stored_config(tmp_path) == cfg
    other = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, steps=7), seed=3)
    with pytest.raises(UserError, match=r"config.seed: 0 -> 3; config.train.steps: 200 -> 7.*--accept-config-change"):
        workdir.claim(other, tmp_path)
    changed = workdir.claim(other, tmp_path, accept_change=True)
    workdir.store_config(other, tmp_path, changed, 5)
    assert read_lines(tmp_path / workdir.CONFIG_CHANGES) == [{"step": 5, "changed": changed}]
    assert workdir.claim(other, tmp_path) == []
    assert (tmp_path / workdir.CONFIG_DIFF).read_text().splitlines() == changed


def test_a_config_from_before_a_field_was_added_is_the_same_config(tmp_path):
    workdir.store_config(Config(), tmp_path)
    stored = json.loads((tmp_path / workdir.CONFIG).read_text())
    del stored["guards"], stored["train"]["keep_best"]
    (tmp_path / workdir.CONFIG).write_text(json.dumps(stored))
    assert workdir.changes(tmp_path, Config()) == []
    stored["train"]["momentum"] = 0.9  # a field that is gone
    (tmp_path / workdir.CONFIG).write_text(json.dumps(stored))
    assert "config.train.momentum: 0.9 -> None" in workdir.changes(tmp_path, Config())


@pytest.mark.parametrize("text", ["", '{"name": "x', "[1]", "\udcff"])
def test_a_damaged_config_is_a_clear_error(text, tmp_path):
    (tmp_path / workdir.CONFIG).write_text(text, errors="surrogateescape")
    with pytest.raises(UserError):
        workdir.stored_config(tmp_path)
    with pytest.raises(UserError):
        workdir.claim(Config(), tmp_path)


def test_the_code_version_names_the_package_and_its_source():
    version, digest = workdir.code_version().split("+")
    assert version.count(".") == 2 and len(digest) == 12
