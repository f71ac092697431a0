"""What is installed works without a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, target: Path) -> Path:
    """The sdist or wheel of a source tree."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(target)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from an sdist, as a package index has it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("finemem_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    with tarfile.open(build("sdist", source, target)) as sdist:
        sdist.extractall(source / "unpacked", filter="data")
    (unpacked,) = (source / "unpacked").iterdir()
    return zipfile.ZipFile(build("wheel", unpacked, target))


def test_a_wheel_holds_the_package_its_data_and_the_configs(wheel):
    held = set(wheel.namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "finemem_jax").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    wanted |= {f"finemem_jax/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert wanted <= held and "finemem_jax/py.typed" in held
    others = {name for name in held - wanted if ".dist-info/" not in name}
    assert others == set(), "nothing else, and nothing beside the package"


def test_the_metadata_says_who_what_and_where(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Author"] and "memory" in metadata["Keywords"] and metadata["License"] == "Apache-2.0"
    assert "Paper, https://arxiv.org/abs/2601.08435" in metadata.get_all("Project-URL")


def test_an_installed_wheel_knows_the_configs_by_name(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def printed(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "finemem_jax.main", "config", f"--config={name}", "--changed"],
            cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "--config.train.steps=45 " in printed("quickstart")
    assert "--config.rewards.evidence.beta=0.25 " in printed("ablations/beta:0.25")  # which starts from the quickstart
    assert "--config.name=full " in printed("configs/ablations/full.py")
