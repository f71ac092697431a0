"""No pattern of the package can be made to backtrack over a long text.

`re` holds the interpreter's lock: a pattern that takes seconds on what a model, a dataset or a server wrote stops
heartbeats, watchdog and answers with it. So a pattern is either plain, which cannot take more than linear time, or it
never gives a character back and is put to the worst texts over its own alphabet.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from re import _constants as sre
from re import _parser as sre_parser

import pytest
import regex

PACKAGE = Path(__file__).parents[1] / "finemem_jax"
# These read what the compiler and the cluster's scheduler write, and our own source, a line at a time.
NOT_UNTRUSTED = ("plan/", "hosts/", "console.py", "schema/")
FUNCTIONS = {"compile", "search", "match", "fullmatch", "findall", "finditer", "split", "sub", "subn"}
REPEATS = {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}
ONE_CHARACTER = {sre.LITERAL, sre.NOT_LITERAL, sre.IN, sre.ANY, sre.CATEGORY}
FEW = 64  # a repeat of at most so many is no repeat


# --------------------------------------------------------------------------------------------------------------
# The patterns
# --------------------------------------------------------------------------------------------------------------


def patterns(library: str) -> dict[str, str]:
    """Every pattern of `re` or `regex` that may meet a text from outside -> the file it stands in."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if not name.startswith(NOT_UNTRUSTED):
            for call in _calls(ast.parse(path.read_text(encoding="utf-8")), library):
                found |= dict.fromkeys(_values(call.args[0], name), name)
    return found


def _calls(tree: ast.AST, library: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            owner = node.func.value
            if node.func.attr in FUNCTIONS and isinstance(owner, ast.Name) and owner.id == library:
                yield node


def _values(node: ast.expr, name: str) -> list[str]:
    """The texts that the argument of such a call can be: what it is in its module, or what is bound to it there."""
    module = importlib.import_module(".".join(["finemem_jax", *Path(name).with_suffix("").parts]))
    try:
        value = eval(compile(ast.Expression(node), name, "eval"), dict(vars(module)))
        return [value] if isinstance(value, str) else [text for text in value if isinstance(text, str)]
    except NameError:
        pass
    if isinstance(node, ast.IfExp):
        return _values(node.body, name) + _values(node.orelse, name)
    assert isinstance(node, ast.Name), f"{name} puts a pattern together while it runs: {ast.unparse(node)}"
    bound = []
    for other in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
        if isinstance(other, ast.Assign):
            bound += [(target, other.value) for target in other.targets]
        elif isinstance(other, ast.comprehension | ast.For):
            bound.append((other.target, other.iter))
    return [
        text
        for target, value in bound
        if isinstance(target, ast.Name) and target.id == node.id
        for text in _values(value, name)
    ]


# --------------------------------------------------------------------------------------------------------------
# Which cannot backtrack
# --------------------------------------------------------------------------------------------------------------


def is_plain(pattern: str) -> bool:
    """Whether each alternative has at most one repeat without a bound, of one character, with nothing behind it that
    could fail: an attempt that got as far as the repeat succeeds, and none can begin inside it."""
    return all(_is_plain_branch(branch) for branch in _branches(sre_parser.parse(pattern)))


def is_atomic(pattern: str) -> bool:
    """Whether it never gives back what it took, further than a bounded stretch."""
    return all(_is_atomic(operator, argument) for operator, argument in _nodes(sre_parser.parse(pattern)))


def _branches(sequence) -> list[list]:
    items = _flattened(sequence)
    if len(items) == 1 and items[0][0] is sre.BRANCH:
        return [branch for option in items[0][1][1] for branch in _branches(option)]
    return [items]


def _flattened(sequence) -> list:
    items = []
    for operator, argument in sequence:
        items += _flattened(argument[-1]) if operator is sre.SUBPATTERN else [(operator, argument)]
    return items


def _is_plain_branch(items: list) -> bool:
    for position, item in enumerate(items):
        if _is_endless(*item):
            inner = _flattened(item[1][-1])
            is_last = position == len(items) - 1
            if not (is_last and len(inner) == 1 and inner[0][0] in ONE_CHARACTER):
                return False
        elif any(_is_endless(*node) for node in _nodes([item])):
            return False
    return True


def _is_endless(operator, argument) -> bool:
    return operator in REPEATS and argument[1] > FEW


def _is_atomic(operator, argument) -> bool:
    return not _is_endless(operator, argument) or operator is sre.POSSESSIVE_REPEAT


def _nodes(sequence) -> Iterator[tuple]:
    """Every part of a pattern, parts of parts included."""
    for operator, argument in sequence:
        yield operator, argument
        if operator is sre.BRANCH:
            for option in argument[1]:
                yield from _nodes(option)
        elif operator in REPEATS or operator in (sre.SUBPATTERN, sre.ASSERT, sre.ASSERT_NOT):
            yield from _nodes(argument[-1])


# --------------------------------------------------------------------------------------------------------------
# The worst text for one
# --------------------------------------------------------------------------------------------------------------


def pieces(pattern: str) -> list[str]:
    """Some of the words and signs that stand in a pattern, and some of every kind."""
    nodes = _nodes(sre_parser.parse(pattern))
    words = "".join(chr(argument) if operator is sre.LITERAL else "\0" for operator, argument in nodes).split("\0")
    signs = sorted({sign for sign in pattern if not sign.isalnum()} - {"?", "*", "+", "^", "$"})
    return [*dict.fromkeys([" ", "a", "1", "\n", *filter(None, words[:6]), *signs[:6]])]


def growth(pattern: re.Pattern, units: list[str], short: int, long: int) -> tuple[float, str]:
    """By what factor the time for the worst text made of `units` grows from `short` to `long` characters; that text."""
    starts = itertools.product(["", *units], [unit + other for unit in units for other in ["", *units]], ["", "!"])
    return max(_growth(pattern, parts, (short, long)) for parts in starts)


def _growth(pattern: re.Pattern, parts: tuple[str, str, str], sizes: tuple[int, int]) -> tuple[float, str]:
    before, unit, after = parts
    texts = [before + unit * (size // len(unit)) + after for size in sizes]
    took = [_seconds(pattern, text) for text in texts]
    if took[1] > 10 * took[0]:  # once more: what other processes do only ever adds time
        took = [min(seconds, _seconds(pattern, text)) for seconds, text in zip(took, texts, strict=True)]
    return took[1] / max(took[0], 1e-4), repr(parts)


def _seconds(pattern: re.Pattern, text: str) -> float:
    start = time.thread_time()
    for _ in pattern.finditer(text):
        pass
    return time.thread_time() - start


FENCE = r"```\w*\s*\n(.*?)\n?\s*```"  # cubic: two thousand blank lines took half a minute


def test_the_rules_tell_patterns_apart():
    for pattern in (r"\w+", r"['`]", r"answer:([^\n]*)", r"(?:a|b)[0-9]{1,6}", r"\b(yes|no)\b", r"ab|c\d+"):
        assert is_plain(pattern), pattern
    for pattern in (r"\s+$", r"(\w+)*", r"^.*</think>", FENCE, r"a*b", r"(?:ab)+", r"x(a|b*)c", r"\s++x"):
        assert not is_plain(pattern), pattern
    assert is_atomic(r"\s++x(?:a\w++)?") and not is_atomic(FENCE) and not is_atomic(r"(?:a\w+)?")


def test_the_measure_finds_the_fence_that_stopped_a_run():
    assert growth(re.compile(FENCE, re.DOTALL), pieces(FENCE), 60, 240)[0] > 12


@pytest.mark.parametrize("pattern", patterns("re"))
def test_no_pattern_backtracks(pattern):
    if not is_plain(pattern):
        assert is_atomic(pattern), f"{patterns('re')[pattern]} has a pattern that can backtrack: {pattern}"
        check_growth(re.compile(pattern), pieces(pattern))


@pytest.mark.parametrize("pattern", patterns("regex"))
def test_no_pattern_of_regex_takes_more_than_linear_time(pattern):
    check_growth(regex.compile(pattern), [" ", "a", "1", "_", "北", "\u0301"])


def check_growth(pattern, units):
    factor, text = growth(pattern, units, 500, 4000)
    assert factor < 24, f"8 times the text takes {factor:.0f} times as long: {pattern.pattern} on {text}"
