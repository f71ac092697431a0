"""Terms and credit rules are tried before a run begins; what is wrong with a plug-in file is said at once."""

from __future__ import annotations

import sys

import pytest

import finemem_jax.credit
import finemem_jax.rewards
from finemem_jax import config
from finemem_jax.config import AdvantageConfig, RewardsConfig, UserError, resolve
from finemem_jax.env.rehearsal import rehearse


def rewards(**weights):
    return RewardsConfig(weights=dict.fromkeys(config.plugins("finemem_jax.rewards"), 0.0) | weights)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Adds a reward term, `mine`."""
    for package in (finemem_jax.rewards, finemem_jax.credit):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield (tmp_path / "mine.py").write_text
    for folder in ("rewards", "credit"):
        sys.modules.pop(f"finemem_jax.{folder}.mine", None)


def test_what_comes_with_the_package_passes(env):
    for credit in config.plugins("finemem_jax.credit"):
        rehearse(
            env, rewards(**dict.fromkeys(config.plugins("finemem_jax.rewards"), 1.0)), AdvantageConfig(credit=credit)
        )


GOOD = """
import numpy as np
ROLES, LEVEL = ("write", "answer", "search"), "turn"
def turn_rewards(rollout, cfg, count_tokens):
    {body}
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return np.zeros(3)", "turn_rewards gave (3,) for 4 turns of ('write', 'answer', 'search')"),
        ("return rollout.stpes", "AttributeError: 'Rollout' object has no attribute 'stpes'"),
        ("return None", "turn_rewards gave () for 4 turns"),
        ("return 'good'", "ValueError: could not convert string to float: 'good'"),
        ("return turn_rewards()", "TypeError: turn_rewards() missing 3 required positional arguments"),
    ],
)
def test_a_term_that_fails_is_named_with_the_reason(env, added, body, reason):
    added(GOOD.format(body=body))
    with pytest.raises(UserError) as refused:
        rehearse(env, rewards(mine=1.0), AdvantageConfig())
    assert str(refused.value).startswith(f"rewards/mine.py: {reason}") and "\n" not in str(refused.value)
    rehearse(env, rewards(mine=0.0, format=1.0), AdvantageConfig())  # what is off is not tried


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ROLES, LEVEL = (), 'turn'\nturn_rewards = 3", "mine.py lacks turn_rewards()"),
        ("LEVEL = 'turn'\ndef turn_rewards(): pass", "mine.py lacks ROLES: every file in rewards/ has it"),
        ("def turn_rewards(:", "mine.py, line 1: SyntaxError: invalid syntax"),
        ("\n\nimport no_such_module", "mine.py, line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\ny = 1 / 0", "mine.py, line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_is_no_plug_in_is_refused_when_it_is_resolved(added, text, reason):
    added(text)
    with pytest.raises(UserError) as refused:
        resolve("finemem_jax.rewards", "mine")
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [("return values.nothing", "AttributeError"), ("return np.zeros(1)", "1 advantages and 10 keys")],
)
def test_a_credit_rule_that_fails_is_named(env, added, body, reason):
    added(
        f"import numpy as np\ndef keys(turns): return np.zeros(len(turns), int)\ndef advantages(values, w, cfg): {body}"
    )
    with pytest.raises(UserError, match=rf"credit/mine\.py: {reason}"):
        rehearse(env, rewards(format=1.0), AdvantageConfig(credit="mine"))


def test_every_folder_of_plug_ins_says_what_they_have():
    for folder in ("rewards", "credit", "memory", "codecs", "prompts", "answerers", "benchmarks", "corpora", "models"):
        package = __import__(f"finemem_jax.{folder}", fromlist=["EXPORTS"])
        assert package.EXPORTS and all(resolve(package.__name__, name) for name in config.plugins(package.__name__))
