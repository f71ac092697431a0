"""What every field of the config means and may hold, read from the schema: `finemem config` and docs/config.md."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from finemem_jax.config import Config
from finemem_jax.schema.legal import Plugin, Setting, walk
from finemem_jax.schema.plugins import plugins

HEAD = """\
# Config reference

Every field with its default and what it may hold: the output of `finemem config --reference`, made from
`finemem_jax/config.py`; a test keeps it current. A field is set in a config file (`cfg.train.steps = 10`) or on the
command line (`--config.train.steps=10`); `finemem config --config=F` prints what a config resolves to, with
`--changed` only what differs from these defaults.
"""


def option_lines(cfg: Config, only_changed: bool = False) -> Iterator[str]:
    """One line per field, as the option that sets it, with its legal values and its meaning behind it."""
    defaults = {name: value for name, _, value in _leaves(Config(), each_item=True)}
    for name, setting, value in _leaves(cfg, each_item=True):
        default = defaults.get(name)
        if only_changed and value == default:
            continue
        files = (
            f": {', '.join(plugins(f'finemem_jax.{setting.legal.folder}'))}" if type(setting.legal) is Plugin else ""
        )
        was = "" if value == default else f" (default {default!r})"
        yield f"--{name}={_quoted(str(value))}  # {comment(name)} [{legal(setting)}{files}]{was}"


def _quoted(text: str) -> str:
    """As one word for a shell."""
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text)


def markdown() -> str:
    """The page docs/config.md."""
    parts, group = [HEAD], None
    for name, setting, value in _leaves(Config()):
        own, _, field = name.rpartition(".")
        if own != group:
            group = own
            about = _about(own)
            parts.append(f"\n## {own}\n\n" + (f"{about}\n\n" if about else ""))
            parts.append("| field | default | may hold | meaning |\n|---|---|---|---|\n")
        if isinstance(value, Mapping):  # by plug-in, of which those that come later are off
            value = {key: item for key, item in value.items() if item}
        default = f"`{value}`" if value not in ("", {}) else "empty"
        cells = (f"`{field}`", default, legal(setting), _own_comment(name))
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def legal(setting: Setting) -> str:
    """The legal values of a field in words."""
    if setting.legal is not None:
        kind = {int: "whole number, ", float: "number, "}.get(setting.type, "")
        return f"{kind}{setting.legal}"
    if setting.type is bool:
        return "True, False"
    if setting.type is tuple:
        return f"a tuple, each: {legal(setting.parts[0])}"
    return f"for each {legal(setting.parts[0])}: {legal(setting.parts[1])}"


def comment(name: str) -> str:
    """What the schema says about a field, after what it says about its group."""
    parts = (_own_comment(name.rpartition(".")[0]), _own_comment(name))
    return ": ".join(part for part in parts if part)


def _own_comment(name: str) -> str:
    """What stands in the schema beside a field, or above it."""
    if name.count(".") == 0:
        return ""
    *groups, field = name.split(".")[1:]
    known = (_comments(cls) for cls in _class(groups).__mro__ if dataclasses.is_dataclass(cls))
    return next((comments[field] for comments in known if field in comments), "")


@functools.cache
def _comments(cls: type) -> dict[str, str]:
    """Of every field that the class itself declares."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        if match := re.match(r"    # (.*)", line):
            above.append(match[1])
            continue
        if match := re.match(r"    (\w+): ", line):
            behind = re.search(r"  # (.*)", line)
            found[match[1]] = " ".join([*above, *([behind[1]] if behind else [])]).rstrip(",")
        above = []
    return found


def _class(groups: list[str]) -> type:
    cls: type = Config
    for group in groups:
        cls = type(getattr(cls(), group))
        if not dataclasses.is_dataclass(cls):
            break
    return cls


def _about(group: str) -> str:
    """What the schema says about a group, in one line."""
    cls = _class(group.split(".")[1:])
    text = " ".join((cls.__doc__ or "").split())
    own = "" if text.startswith(f"{cls.__name__}(") else text  # what dataclass writes
    return " ".join(part for part in (own, _own_comment(group)) if part)


def _leaves(cfg: Config, *, each_item: bool = False) -> Iterator[tuple[str, Setting, Any]]:
    """Every field that is not a group: those of a group before the groups in it. each_item: a mapping item by item."""
    fields = [(name, setting) for name, setting in walk(Config) if not dataclasses.is_dataclass(setting.type)]
    order = {group: place for place, group in enumerate(dict.fromkeys(name.rpartition(".")[0] for name, _ in fields))}
    for name, setting in sorted(fields, key=lambda field: order[field[0].rpartition(".")[0]]):
        value = _value(cfg, name)
        if not each_item or not isinstance(value, Mapping):
            yield name, setting, value
            continue
        for key, item in _items(name, value):
            yield key, setting.parts[1] if setting.parts else setting, item


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a mapping holds at any depth, by dotted name."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        yield from _items(f"{name}.{key}", item)


def _value(cfg: Any, name: str) -> Any:
    for part in name.split(".")[1:]:
        cfg = getattr(cfg, part)
    return cfg
