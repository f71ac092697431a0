"""Config files are found by name from anywhere, and start from each other."""

from __future__ import annotations

import sys

import pytest

from finemem_jax import main
from finemem_jax.exits import UserError
from finemem_jax.schema import config_files


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("quickstart", "quickstart"),
        ("configs/quickstart.py", "quickstart"),
        ("ablations/full", "full"),
        ("ablations/beta:0.25", "beta"),
    ],
)
def test_a_shipped_config_goes_by_its_name_from_any_folder(given, name, elsewhere):
    cfg = main.load_config(given, [])
    assert cfg.name == name and cfg.model.path == "embedded:warm_start"
    assert name != "beta" or cfg.rewards.evidence.beta == 0.25


def test_a_file_that_lies_there_comes_before_a_shipped_one(elsewhere):
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs/quickstart.py").write_text(
        "from configs import warm_start\n"
        "def get_config():\n  c = warm_start.get_config()\n  c.name = 'own'\n  return c\n"
    )
    assert main.load_config("configs/quickstart.py", []).name == "own"


def test_an_unknown_name_names_the_nearest(elsewhere):
    with pytest.raises(UserError, match=r"no config file quickstrat \(--config\).*did you mean quickstart\?"):
        main.load_config("quickstrat", [])
    for outside in ("../setup", "configs/../../setup", "/"):
        with pytest.raises(UserError, match="no config file"):
            config_files.find(outside)
