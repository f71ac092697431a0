"""Reads a compiled program's text: what it sends between devices."""

from __future__ import annotations

import math
import re
from collections import defaultdict

Collectives = dict[str, tuple[float, float]]
"""Kind -> (how often it runs, bytes it leaves on each device), in one pass through every loop of unknown length."""

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:body|calls|to_apply|branch_computations)=\{?%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BELOW = re.compile(r"^ROOT .* compare\([^%]*%[\w.\-]+, [^%]*%([\w.\-]+)\), direction=LT")
_CONSTANT = re.compile(r"^%?([\w.\-]+) = .* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2}


def collectives(text: str) -> Collectives:
    """Kinds of collectives with their count and bytes; a loop of known length counts each of its turns."""
    entry, bodies = _computations(text)
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    seen: set[str] = set()

    def is_new(line: str) -> bool:
        # The TPU compiler repeats a collective in every operation that it overlaps with: the channel is the same.
        channel = _CHANNEL.search(line)
        if channel is None:
            return True
        fresh = channel[1] not in seen
        seen.add(channel[1])
        return fresh

    def walk(name: str, times: float) -> None:
        for line in bodies.get(name, ()):
            right = line.partition(" = ")[2]
            for kind in KINDS:
                # An asynchronous one is a start and a done; the done has the result's shape alone.
                if re.search(rf"\s{kind}(-done)?\(", right) and is_new(right):
                    found[kind][0] += times
                    found[kind][1] += times * _size(right.partition(f" {kind}")[0])
            turns = _turns(right, bodies) if "body=" in right else 1
            for called in _CALLED.findall(right):
                walk(called, times * turns)

    walk(entry, 1.0)
    return {kind: (count, size) for kind, (count, size) in found.items()}


def gathered_shapes(text: str) -> list[tuple[int, ...]]:
    """Shapes that any all-gather of the program makes."""
    lines = [line.partition(" = ")[2] for line in text.splitlines() if re.search(r"\sall-gather(-start)?\(", line)]
    shapes = [_SHAPE.findall(line.partition(" all-gather")[0]) for line in lines]
    return [tuple(int(n) for n in dims.split(",") if n) for found in shapes for _, dims in found]


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header and " = " not in line.partition("(")[0]:
            current = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and " = " in line:
            current.append(line)
    return entry, bodies


def _turns(loop: str, bodies: dict[str, list[str]]) -> int:
    """How often a loop runs: as it says, or the constant that its counter, from 0, is compared with; 1 if unknown."""
    known, condition = _TRIPS.search(loop), _CONDITION.search(loop)
    if known or condition is None:
        return int(known[1]) if known else 1
    lines = [line.strip() for line in bodies.get(condition[1], ())]
    below = next(filter(None, map(_BELOW.match, lines)), None)
    constants = {match[1]: match[2] for match in map(_CONSTANT.match, lines) if match}
    return int(constants.get(below[1], 1)) if below else 1


def _size(shapes: str) -> float:
    total = 0.0
    for dtype, dims in _SHAPE.findall(shapes):
        width = _BYTES.get(dtype) or int(re.sub(r"\D", "", dtype[:3])) // 8
        total += width * math.prod(int(n) for n in dims.split(",") if n)
    return total
