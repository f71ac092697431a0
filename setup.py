"""All of the package is described in setup.cfg. Here is what it cannot say: a wheel holds the configs."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Puts configs/ into the package, where `--config=NAME` looks for it. An editable install has them beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "finemem_jax", "configs")
            shutil.copytree("configs", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithConfigs})
