"""Trees of settings into frozen dataclasses and back, strictly: an unknown key or a wrong type is a UserError."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import ml_collections

from finemem_jax.exits import UserError
from finemem_jax.schema.legal import Setting, settings
from finemem_jax.schema.plugins import unknown


def to_dict(cfg: object) -> dict:
    """A config dataclass as nested plain dicts (tuples stay tuples), ready for JSON."""
    return {f.name: _plain(getattr(cfg, f.name)) for f in dataclasses.fields(cfg)}  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def plain(tree: Mapping | ml_collections.ConfigDict) -> dict:
    """Nested plain dicts of an ml_collections tree."""
    if not isinstance(tree, Mapping | ml_collections.ConfigDict):
        raise UserError(f"a config must be a group of settings, got {str(tree)[:80]!r}")
    return tree.to_dict() if isinstance(tree, ml_collections.ConfigDict) else dict(tree)


def build(cls: Any, tree: Mapping, path: str) -> Any:
    """An instance of `cls` from a tree of its fields; those that it lacks keep their defaults."""
    known = {setting.name: setting for setting in settings(cls)}
    for key in tree:
        if key not in known:
            raise UserError(unknown(f"{path}.{key}", [f"{path}.{name}" for name in known], "config key"))
    return cls(**{key: _convert(known[key], value, f"{path}.{key}") for key, value in tree.items()})


def _convert(setting: Setting, value: object, path: str) -> object:
    wanted = setting.type
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, Mapping):
            raise UserError(f"{path} must be a group of settings, got {value!r}")
        return build(wanted, value, path)
    if wanted is tuple:
        [inner] = setting.parts
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise UserError(f"{path} must be a tuple of {inner.type.__name__}, got {value!r}")
        return tuple(_convert(inner, item, f"{path}[{i}]") for i, item in enumerate(value))
    if issubclass(wanted, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{path} must be a group of {'numbers' if setting.parts else 'settings'}, got {value!r}")
        if not setting.parts:
            return _frozen(value, path)
        key, inner = setting.parts
        items = {_convert(key, k, path): _convert(inner, v, f"{path}.{k}") for k, v in value.items()}
        return types.MappingProxyType(items)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{path} must fit in 64 bits")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UserError(f"{path} must be of type {wanted.__name__}, got {value!r}")
    return value


def _frozen(value: object, path: str) -> object:
    """Settings of a plug-in, at any depth: what JSON can hold, and nothing that changes later."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise UserError(f"{path}: every key must be text, got {list(value)!r}")
        return types.MappingProxyType({key: _frozen(item, f"{path}.{key}") for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, f"{path}[{index}]") for index, item in enumerate(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{path} must be a number, text, a truth value or a tuple or group of them, got {value!r}")


def dotted_names(tree: Mapping, prefix: str = "config") -> list[str]:
    """Every dotted name of a config tree, groups included, e.g. "config.loss" and "config.loss.kl_coef"."""
    names = []
    for key, value in tree.items():
        names.append(f"{prefix}.{key}")
        if isinstance(value, Mapping):
            names += dotted_names(value, f"{prefix}.{key}")
    return names
