"""`finemem config` says what the schema says."""

from __future__ import annotations

import shlex

from finemem_jax import config, main
from finemem_jax.schema import reference


def test_every_field_has_a_meaning():
    assert [name for name, *_ in reference._leaves(config.Config()) if not reference._own_comment(name)] == []


def test_what_is_printed_sets_the_same_config_again(capsys):
    given = ["--config=quickstart", "--config.eval.baselines=('oracle',)", "--config.guards.kl.limit=0.5"]
    assert main.main(["config", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    (kl,) = [line for line in lines if line.startswith("--config.loss.kl_coef=")]
    assert kl == "--config.loss.kl_coef=0.0  # 0 = no reference policy at all [number, at least 0] (default 0.001)"
    words = [word for line in lines for word in shlex.split(line, comments=True)]
    assert len(words) == len(lines) > 200
    assert main.load_config("warm_start", words) == main.load_config("quickstart", given[1:])


def test_only_what_differs_is_printed_when_asked(capsys):
    assert main.main(["config", "--config=quickstart", "--changed", "--config.guards.kl.limit=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 20 < len(lines) < 60 and any(line.startswith("--config.guards.kl.limit=0.5  # KL to") for line in lines)


def test_the_meaning_of_a_field_stands_above_it_or_behind_it():
    assert reference.comment("config.judge.max_tokens") == "of one judgement; at least what its protocol needs"
    assert reference.comment("config.judge.url").startswith("endpoint: base URL")  # as its base class says
    assert reference.comment("config.model.lora.rank").startswith("0 = train all parameters")
    assert reference.comment("config.guards.kl.limit").startswith("KL to the reference, nats per token")
