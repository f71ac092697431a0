"""Which values a field of the config may hold, written beside it as a part of its type.

    beta: Share = 0.5                                       a number from 0 to 1
    lr: Annotated[float, Range(0, 10)] = 1e-6               any other range
    schedule: Literal["constant", "linear"] = "constant"    a name of a list
    name: Annotated[str, Plugin("benchmarks")] = "diary"    a file in a folder of plug-ins
    path: Place = ""                                        a file or folder of this machine, or a hub name
    url: Text = ""                                          free text: urls, names that others give

Elements of a tuple and keys and values of a mapping are marked alike: `tuple[Share, ...]`. A field of a group whose
range depends on where the group stands is narrowed there: `kl: Annotated[GuardConfig, Narrowed(limit=Range(0, 1))]`.
`check` holds an object against all of it; tests/test_config.py finds a field without legal values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

from finemem_jax.exits import UserError
from finemem_jax.files import local_path
from finemem_jax.schema.plugins import nearest, plugins


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers from `least` to `most`, but not those of `but`; and those of `also`, infinity too."""

    least: float
    most: float = math.inf
    but: tuple[float, ...] = ()
    also: tuple[float, ...] = ()

    def check(self, value: Any, path: str) -> None:
        inside = self.least <= value <= self.most and math.isfinite(value) and value not in self.but  # NaN is not
        if not inside and value not in self.also:
            finite = "" if math.isfinite(value) or self.least == -math.inf else "finite, "
            raise UserError(f"{path}={value}: must be {finite}{self}")

    def __str__(self) -> str:
        most = f"below {self.most:.10g}" if self.most in self.but else f"{self.most:.10g}"
        if self.least in self.but:
            text = f"above {self.least:.10g}" + ("" if self.most == math.inf else f", at most {most}")
        elif self.least == -math.inf and self.most == math.inf:
            text = "finite"
        elif self.most == math.inf:
            text = f"at least {self.least:.10g}"
        else:
            text = f"from {self.least:.10g} to {most}"
        return ", or ".join([text, *(f"{value:.10g}" for value in self.also)])


@dataclass(frozen=True, slots=True)
class OneOf:
    """A name of a list that is known when the schema is read. A list that is written out is a Literal."""

    names: tuple[str, ...]

    def check(self, value: Any, path: str) -> None:
        if value not in self.names:
            raise UserError(f"{path}={value!r}: allowed are {self}")

    def __str__(self) -> str:
        return ", ".join(str(name) for name in self.names)


@dataclass(frozen=True, slots=True)
class Plugin:
    """The name of a file in a folder of plug-ins, or one of `also`."""

    folder: str
    also: tuple[str, ...] = ()

    def check(self, value: Any, path: str) -> None:
        known = plugins(f"finemem_jax.{self.folder}")
        if value not in known and value not in self.also:
            raise UserError(f"{path}={value!r}: no such file in {self.folder}/, {nearest(value, known)}")

    def __str__(self) -> str:
        return f"a file in {self.folder}/"


@dataclass(frozen=True, slots=True)
class AnyText:
    """Free text: no list of it exists."""

    def check(self, value: Any, path: str) -> None:
        if "\0" in value:
            raise UserError(f"{path}={value!r}: holds a NUL character")

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A file, a folder or a hub name, and no address of a bucket."""

    def check(self, value: Any, path: str) -> None:
        AnyText().check(value, path)
        local_path(value, path)

    def __str__(self) -> str:
        return "a local path"


class Narrowed:
    """Other legal values for the fields of the group it stands at: `Narrowed(limit=Range(0, 1))`."""

    def __init__(self, **fields: Legal):
        self.fields = fields


@runtime_checkable
class Legal(Protocol):
    """What stands beside a field. As a string it says which values are legal."""

    def check(self, value: Any, path: str) -> None:
        """Raises UserError when `value` is illegal."""


Text = Annotated[str, AnyText()]
Place = Annotated[str, LocalPath()]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Amount = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**31 - 1)]


class Setting(NamedTuple):
    """One field of a group, as the schema says it."""

    name: str
    type: Any  # bool, int, float, str, tuple, a Mapping or a dataclass: what the annotation is without its marks
    parts: tuple[Setting, ...]  # of a tuple its element; of a mapping its key and value
    legal: Legal | None  # None: a group, a tuple, a mapping or a bool
    narrowed: Mapping[str, Legal]  # of a group: what its place says about its fields


@functools.cache
def settings(cls: Any) -> tuple[Setting, ...]:
    """The fields of a config dataclass, in order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_setting(f.name, hints[f.name]) for f in dataclasses.fields(cls))


def _setting(name: str, hint: Any) -> Setting:
    marks = hint.__metadata__ if typing.get_origin(hint) is Annotated else ()
    bare = typing.get_args(hint)[0] if marks else hint
    origin = typing.get_origin(bare)
    if origin is Literal:
        return Setting(name, str, (), OneOf(typing.get_args(bare)), {})
    narrowed = {field: legal for mark in marks if isinstance(mark, Narrowed) for field, legal in mark.fields.items()}
    legal = next((mark for mark in marks if isinstance(mark, Legal)), None)
    whole = origin is Mapping and legal is not None  # checked by its mark as one
    inner = [] if whole else [part for part in typing.get_args(bare) if part is not Ellipsis]
    return Setting(name, origin or bare, tuple(_setting("", part) for part in inner), legal, narrowed)


def check(cfg: Any, path: str = "config", narrowed: Mapping[str, Legal] | None = None) -> None:
    """Raises UserError when a field of `cfg`, at any depth, holds an illegal value; names it by its dotted path."""
    schema: Any = type(cfg)
    for setting in settings(schema):
        legal = (narrowed or {}).get(setting.name, setting.legal)
        _check(setting._replace(legal=legal), getattr(cfg, setting.name), f"{path}.{setting.name}")


def _check(setting: Setting, value: Any, path: str) -> None:
    if dataclasses.is_dataclass(setting.type):
        check(value, path, setting.narrowed)
    elif setting.type is tuple:
        for index, element in enumerate(value):
            _check(setting.parts[0], element, f"{path}[{index}]")
    elif isinstance(value, Mapping) and setting.parts:
        for key, element in value.items():
            _check(setting.parts[0], key, path)
            _check(setting.parts[1], element, f"{path}.{key}")
    elif setting.legal is not None:
        setting.legal.check(value, path)


def walk(
    cls: Any, prefix: str = "config", narrowed: Mapping[str, Legal] | None = None
) -> Iterator[tuple[str, Setting]]:
    """Every field with its dotted name, groups before what they hold."""
    for setting in settings(cls):
        name, legal = f"{prefix}.{setting.name}", (narrowed or {}).get(setting.name, setting.legal)
        yield name, setting._replace(legal=legal)
        if dataclasses.is_dataclass(setting.type):
            yield from walk(setting.type, name, setting.narrowed)
