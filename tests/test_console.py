"""The live view on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from finemem_jax.console import Progress


@pytest.fixture
def jax_log():
    """Says what jax's compiler says."""
    logger = logging.getLogger("jax._src.interpreters.pxla")
    return lambda text: logger.debug(text)


def test_elsewhere_it_prints_plain_lines(capsys, jax_log):
    now = [5.0]  # seconds, that pass as the test says
    plain = Console(file=io.StringIO(), force_terminal=False)
    with Progress(8, "train", plain, clock=lambda: now[0]) as progress:
        progress.say("hello [b]")
        jax_log("Compiling jit(decode) with global shapes and types (x)")
        jax_log("Compiling jit(decode) with global shapes and types (y)")
        jax_log("Compiling jit(convert_element_type) with global shapes")
        progress.update(1, reward=0.12345, accuracy=0.5)
        now[0] += 10.0
        progress.update(2, reward=0.3)  # too soon after the last
        now[0] += 10.0
        progress.update(5, reward=0.3)
        progress.update(8, reward=0.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["hello [b]", "compiling decoding of the sampler"]
    assert lines[2] == "train 1/8  reward 0.123  accuracy 0.5  "
    assert lines[3:] == ["train 5/8  reward 0.3  left 0:15", "train 8/8  reward 0.25  left 0:00"]


def test_on_a_terminal_it_stays_in_place_and_says_what_is_compiled(monkeypatch, jax_log):
    monkeypatch.delenv("CI", raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(4, "train", console) as progress:
        progress.doing("rollout")
        progress.update(2, reward=0.5, **{"tokens/s": 1234.5, "ALARMS": 1})
        progress._live.refresh()
        jax_log("Compiling jit(step) with global shapes and types (x)")
        progress._live.refresh()
        logging.getLogger("jax._src.dispatch").debug("Finished XLA compilation of jit(step) in 1.5 sec")
        progress._live.refresh()
        progress.say("above [not markup]")
    text = console.file.getvalue()
    for part in (
        "train",
        "2/4",
        "reward 0.5",
        "tokens/s 1234",
        "ALARMS 1",
        "rollout",
        "compiling the update",
        "above [not markup]",
    ):
        assert part in text
    assert text.index("compiling the update") < text.rindex("rollout")  # it is over when it is over


def test_under_ci_a_terminal_gets_plain_lines(monkeypatch, capsys):
    monkeypatch.setenv("CI", "true")
    with Progress(1, "train", Console(file=io.StringIO(), force_terminal=True)) as progress:
        progress.update(1, reward=1.0)
    assert capsys.readouterr().err.startswith("train 1/1  reward 1")


def test_jaxs_log_is_as_before_afterwards():
    logger = logging.getLogger("jax._src.interpreters.pxla")
    before = logger.level, list(logger.filters)
    with Progress(1, "train", Console(file=io.StringIO(), force_terminal=False)):
        assert not any(
            f.filter(logging.LogRecord("x", logging.DEBUG, "", 0, "noise", (), None)) for f in logger.filters
        )
        assert all(f.filter(logging.LogRecord("x", logging.WARNING, "", 0, "bad", (), None)) for f in logger.filters)
    assert (logger.level, list(logger.filters)) == before
