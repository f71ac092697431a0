"""Config files: where `--config=NAME` finds one, and reading it with its overrides.

A file starts from another with `from configs import NAME`: one of the user's own folder `configs/`, else a shipped one.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from finemem_jax import config
from finemem_jax.config import Config
from finemem_jax.exits import UserError
from finemem_jax.schema.legal import walk
from finemem_jax.schema.own_settings import OwnSettings
from finemem_jax.schema.plugins import PACKAGE, nearest, unknown

# A wheel holds the files in the package; a clone beside it.
SHIPPED = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


def shipped() -> list[str]:
    """Names of the config files that come with the package: "quickstart", "ablations/full", …"""
    return sorted(str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.rglob("*.py"))


def find(name: str) -> Path:
    """The config file of a path, or of the name of a shipped one: quickstart, ablations/full, configs/quickstart.py."""
    file = Path(name)
    if file.is_file():
        return file
    ours = SHIPPED / name.removeprefix("configs/").removesuffix(".py")
    if SHIPPED in ours.parents and ".." not in ours.parts and ours.with_suffix(".py").is_file():
        return ours.with_suffix(".py")
    raise UserError(f"no config file {name} (--config): a path, or a shipped one, {nearest(name, shipped())}")


def load_config(path: str, overrides: Sequence[str]) -> Config:
    """The frozen config of an ml_collections file and `--config.a.b=value` overrides. Raises UserError.

    FILE:ARGUMENT gives the file's `get_config` one argument: ablations/beta:0.25."""
    name, colon, argument = path.partition(":")
    file = find(name)
    _make_importable(file)
    plain, own = _split(overrides)
    values, argv = flags.FlagValues(), ["finemem", f"--config={file}{colon}{argument}", *plain]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        tree = values.config
    except (flags.Error, ValueError, TypeError, SyntaxError) as error:
        lines = str(error).splitlines()  # of a mistake in the file itself the last line says what it was
        message = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
        place = "" if "--config." in message else f"{path}: "
        raise UserError(f"{place}{message}") from error
    except (AttributeError, KeyError) as error:  # ml_collections refuses a key that the schema does not have
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    tree = config.plain(tree)
    for override in own:
        _set(tree, *override.removeprefix("--config.").split("=", 1))
    return config.from_ml_collections(tree)


def _split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(those of fields of the schema, those of a plug-in's own settings, whose names the schema does not know)."""
    known = [f"--{name}" for name in config.dotted_names(config.to_dict(Config()))]
    groups = tuple(f"--{name}." for name, setting in walk(Config) if isinstance(setting.legal, OwnSettings))
    plain: list[str] = []
    own: list[str] = []
    for override in overrides:
        name, separator, _ = override.partition("=")
        if not name.startswith("--config."):
            raise UserError(f"unknown argument {override!r}")
        if name not in known and not name.startswith(groups):
            raise UserError(unknown(name, known, "option"))
        if not separator:
            raise UserError(f"{name} needs a value: {name}=VALUE")
        (own if name.startswith(groups) else plain).append(override)
    return plain, own


def _set(tree: dict, name: str, text: str) -> None:
    """Sets a dotted name in nested dicts; the value is a Python literal, or else text."""
    *groups, last = name.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise UserError(f"--config.{name}: {group} is a value, not a group of settings")
    try:
        tree[last] = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        tree[last] = {"true": True, "false": False}.get(text, text)


def _make_importable(file: Path) -> None:
    """What `file` imports is found: `configs` is the folder of that name above it, and the shipped one; and the folder
    above its own is on the path."""
    folders = file.resolve().parents
    own = next((folder for folder in folders if folder.name == "configs"), None)
    package = sys.modules.setdefault("configs", types.ModuleType("configs"))
    wanted = [str(folder) for folder in (own, SHIPPED) if folder is not None]
    package.__path__ = list(dict.fromkeys([*wanted, *getattr(package, "__path__", ())]))
    base = str(folders[1])
    if own is None and base not in sys.path:
        sys.path.append(base)
