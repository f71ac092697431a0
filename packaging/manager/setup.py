"""The small install, `pip install './packaging/manager[mcp]'`: `Manager`, its store, `finemem chat` and `finemem mcp`.

The same package as the whole install, built from the same tree, with what it needs beside a model behind a URL: no jax,
no torch. It stands in the place of `finemem_jax`; the two are not installed together.
"""

import configparser
import os
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("certifi", "h11", "jinja2", "ml-collections", "numpy", "regex", "rich", "transformers")

whole = configparser.ConfigParser()
whole.read(ROOT / "setup.cfg", encoding="utf-8")
requirements = {line.partition(">")[0]: line for line in whole["options"]["install_requires"].split()}
version = next(
    line.split('"')[1]
    for line in (ROOT / "finemem_jax/__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

setup(
    name="finemem_manager",
    version=version,
    description="A trained finemem_jax memory manager in your agent, without the training stack",
    license="Apache-2.0",
    python_requires=whole["options"]["python_requires"],
    packages=find_packages(ROOT, include=["finemem_jax*"]),
    package_dir={"": os.path.relpath(ROOT, Path(__file__).resolve().parent)},
    package_data={"finemem_jax": ["assets/**", "py.typed", "*.pyi"]},
    # Each bound is the one of the whole install; one that is missing there ends the build
    install_requires=[requirements[name] for name in NEEDED],
    extras_require={"mcp": whole["options.extras_require"]["mcp"]},
    entry_points={"console_scripts": [whole["options.entry_points"]["console_scripts"].strip()]},
    options={"egg_info": {"egg_base": "."}},
)
