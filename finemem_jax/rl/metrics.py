"""Metrics that carry their own reduction, so they are exact under any split into microbatches or hosts.

A metric is a `Sum`, a `Mean` (a total with its weight) or a `Max`. Those of two parts of a batch combine with `+`
into that of the whole; `empty` is the neutral element of `+`; `read` makes plain floats of them at the very end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Sum:
    """Parts that add up to the whole, e.g. a loss whose weights are normalised over the whole batch."""

    total: Any  # [] float32

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def empty(self) -> Sum:
        return Sum(jnp.zeros((), jnp.float32))

    def value(self) -> float:
        return float(self.total)


@flax.struct.dataclass
class Mean:
    """total / weight; NaN where nothing was measured (weight 0)."""

    total: Any  # [] float32
    weight: Any  # [] float32

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    def empty(self) -> Mean:
        return Mean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def value(self) -> float:
        return float(self.total) / float(self.weight) if float(self.weight) else float("nan")


@flax.struct.dataclass
class Max:
    """The largest value seen; -inf where nothing was measured."""

    largest: Any  # [] float32

    def __add__(self, other: Max) -> Max:
        return Max(jnp.maximum(self.largest, other.largest))

    def empty(self) -> Max:
        return Max(jnp.full((), -jnp.inf, jnp.float32))

    def value(self) -> float:
        return float(self.largest)


Metric = Sum | Mean | Max
Metrics = dict[str, Metric]


def merge(a: Mapping[str, Metric], b: Mapping[str, Metric]) -> Metrics:
    """Metrics of the union of two parts; both hold the same names."""
    return {name: a[name] + b[name] for name in a}  # type: ignore[operator]  # of a name, both are of one kind


def read(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Plain floats; waits for the device once for all of them."""
    return {name: metric.value() for name, metric in jax.device_get(dict(metrics)).items()}
