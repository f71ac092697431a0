"""Settings that belong to one plug-in: `config.rewards.settings.NAME.*`.

A plug-in says what it takes with a frozen dataclass `Settings` whose fields have defaults, marked as those of
config.py; then an unknown key, a wrong type and an illegal value are refused. One without takes any keys. It reads them
with `settings_of(cfg.settings, "rewards", "mine")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finemem_jax.exits import UserError
from finemem_jax.schema.convert import build
from finemem_jax.schema.legal import Plugin, check
from finemem_jax.schema.plugins import resolve


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """Mark of a field that holds, for names of plug-ins of a folder, the settings of each."""

    folder: str

    def check(self, value: Any, path: str) -> None:
        for name in value:
            Plugin(self.folder).check(name, path)
            if not isinstance(value[name], Mapping):
                raise UserError(f"{path}.{name} must be a group of settings, got {value[name]!r}")
            settings_of(value, self.folder, name, path)

    def __str__(self) -> str:
        return f"NAME.KEY for a file NAME of {self.folder}/: what its `Settings` has"


def settings_of(settings: Mapping[str, Mapping[str, Any]], folder: str, name: str, path: str = "settings") -> Any:
    """The settings of one plug-in: an instance of its `Settings`, or the mapping as given where it has none."""
    given = settings.get(name, {})
    cls = getattr(resolve(f"finemem_jax.{folder}", name), "Settings", None)
    if cls is None:
        return given
    own = build(cls, given, f"{path}.{name}")
    check(own, f"{path}.{name}")
    return own
