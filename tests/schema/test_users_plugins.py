"""A user's plug-ins: from a folder of their own or an installed distribution, with settings of their own."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys

import pytest

from finemem_jax import config, main
from finemem_jax.exits import UserError
from finemem_jax.schema import plugins
from finemem_jax.schema.own_settings import settings_of
from tests import fakes

TERM = '''"""As much as the settings say, at every step."""

from dataclasses import dataclass

import numpy as np

from finemem_jax.schema.legal import Count, Share
from finemem_jax.schema.own_settings import settings_of
from finemem_jax.types import WRITE

ROLES, LEVEL = (WRITE,), "turn"


@dataclass(frozen=True)
class Settings:
    floor: Share = 0.1
    window: Count = 3


def turn_rewards(rollout, cfg, count_tokens):
    return np.full(len(rollout.of(WRITE)), settings_of(cfg.settings, "rewards", "steady").floor)
'''
FREE = """import numpy as np

ROLES, LEVEL = ("write",), "turn"


def turn_rewards(rollout, cfg, count_tokens):
    return np.zeros(len(rollout.of("write")))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """DIR with two terms; what becomes a part of the package leaves it again after the test."""
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards/steady.py").write_text(TERM)
    (tmp_path / "rewards/free.py").write_text(FREE)
    for kind in ("rewards", "memory"):
        package = importlib.import_module(f"finemem_jax.{kind}")
        monkeypatch.setattr(package, "__path__", list(package.__path__))
    yield tmp_path
    for name in ("steady", "free", "broken"):
        sys.modules.pop(f"finemem_jax.rewards.{name}", None)
        monkeypatch.delattr(f"finemem_jax.rewards.{name}", raising=False)


def test_a_folder_of_plug_ins_is_used_by_name(folder, capsys):
    given = [f"--plugins={folder}", "--config.rewards.weights.steady=0.5", "--config.rewards.settings.steady.floor=0.3"]
    assert main.main(["config", "--changed", *given]) == 0
    printed = capsys.readouterr().out
    assert (
        "--config.rewards.weights.steady=0.5 " in printed and "--config.rewards.settings.steady.floor=0.3 " in printed
    )
    cfg = main.load_config("quickstart", given[1:])
    term = config.resolve("finemem_jax.rewards", "steady")
    rollout = fakes.rollout([["a is b"], ["c is d"]], questions=[])
    assert term.turn_rewards(rollout, cfg.rewards, len).tolist() == [0.3, 0.3]
    assert config.from_ml_collections(config.to_dict(cfg)) == cfg


def test_a_run_goes_on_when_a_term_has_come_into_the_folder(folder):
    before = config.to_dict(config.Config())
    plugins.add_folder(folder)
    assert config.from_ml_collections(before) == config.Config() != before
    assert config.Config().rewards.weights["steady"] == 0.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steady.flor=0.3", "config.rewards.settings.steady.flor: did you mean config.rewards.settings.steady.floor?"),
        ("steady.floor=3", "config.rewards.settings.steady.floor=3.0: must be from 0 to 1"),
        ("steady.window=many", "config.rewards.settings.steady.window must be of type int, got 'many'"),
        ("stedy.floor=0.3", "config.rewards.settings='stedy': no such file in rewards/, did you mean steady?"),
        ("steady=3", "config.rewards.settings"),
    ],
)
def test_own_settings_are_as_strict_as_the_schema(override, message, folder):
    plugins.add_folder(folder)
    with pytest.raises(UserError) as caught:
        main.load_config("quickstart", [f"--config.rewards.settings.{override}"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_plug_in_without_settings_of_its_own_takes_any_keys(folder):
    plugins.add_folder(folder)
    overrides = ["--config.rewards.settings.free.words=('a', 'b')", "--config.rewards.settings.free.deep.on=true"]
    given = settings_of(main.load_config("quickstart", overrides).rewards.settings, "rewards", "free")
    assert given["words"] == ("a", "b") and given["deep"]["on"] is True


def test_a_folder_that_does_not_fit_is_refused_in_one_line(folder, capsys):
    def said(option):
        assert main.main(["config", f"--plugins={option}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "no such folder" in said(folder / "nowhere")
    (folder / "reward").mkdir()
    assert "unknown folder of plug-ins reward: did you mean rewards?" in said(folder)
    (folder / "reward").rmdir()
    (folder / "rewards/format.py").write_text(FREE)
    assert "there is a rewards/format.py already" in said(folder)


def test_a_mistake_in_a_users_file_is_named_with_its_line(folder):
    (folder / "rewards/broken.py").write_text('"""Doc."""\n\nimport no_such_module\n')
    plugins.add_folder(folder)
    with pytest.raises(UserError, match=r"rewards/broken\.py, line 3: ModuleNotFoundError"):
        config.resolve("finemem_jax.rewards", "broken")


def test_an_installed_distribution_brings_its_plug_ins(folder, tmp_path, monkeypatch):
    site = tmp_path / "site"
    package = site / "their_package/for_finemem/rewards"
    package.mkdir(parents=True)
    (package / "steady.py").write_text(TERM)
    (package.parent / "__init__.py").write_text("raise RuntimeError('imported, which nobody asked for')\n")
    info = site / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\ntheirs = their_package.for_finemem\n")
    monkeypatch.syspath_prepend(str(site))
    plugins._add_installed.cache_clear()
    assert "steady" in config.plugins("finemem_jax.rewards")
    plugins._add_installed.cache_clear()
