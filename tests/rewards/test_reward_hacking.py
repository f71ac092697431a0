"""No scripted cheat earns more than an honest writer, under the rewards of any config that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from finemem_jax.main import load_config
from finemem_jax.rewards._balance import forgetting_pays
from tests.rewards import cheats

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py"))
UNLIMITED = tuple(cheats.ENDLESS.split())

# A row of the contest whose reward looks at no answer of the end. It is there to show what comes of that.
BLIND = "configs/contest/csr.py"

# Their episodes are one writing turn, after which nothing can be forgotten, or none at all: the first is paid for what
# is asked right behind it, the second for answers alone. A cheat may be worth as much there, but no more.
ONE_TURN = {"configs/neighbours/memory_r1_manager.py", "configs/neighbours/memory_r1_answer.py"}


def best_cheat(table):
    return max((name for name in table if name != "honest"), key=lambda name: table[name].total)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path != BLIND])
def test_no_cheat_earns_more_than_the_oracle_under_the_rewards_of(path):
    """In the config's own diary, or the quickstart's where it reads something else."""
    cfg = load_config(path, [])
    if not any(cfg.rewards.weights.values()):
        pytest.fail(f"{path} pays for nothing")
    table = cheats.earned(cfg.rewards, cheats.LONG if cfg.data.diary.chunks > 8 else cheats.SHORT)
    assert table["honest"].accuracy > 0.85
    best = table[best_cheat(table)].total
    assert table["honest"].total > best or (path in ONE_TURN and table["honest"].total == best), table


def test_the_papers_rewards_pay_for_forgetting_where_per_step_ones_do_not():
    """32 days, a memory without limits: to keep the last day alone earns more by the paper's rewards than to store all,
    and knows far less."""
    paper = load_config("configs/finemem_qwen3_4b.py", []).rewards
    per_step = load_config(cheats.LONG, []).rewards
    assert (paper.evidence.scale, per_step.evidence.scale) == ("paper", "per_step")
    names = ("honest", "store_everything", "keep_the_last")
    honest, everything, last = (cheats.earned(paper, cheats.LONG, UNLIMITED, count=6, names=names)[n] for n in names)
    assert last.accuracy < everything.accuracy - 0.2 and last.total > everything.total + 0.1
    assert honest.total > last.total
    honest, everything, last = (cheats.earned(per_step, cheats.LONG, UNLIMITED, count=6, names=names)[n] for n in names)
    assert honest.total > everything.total + 0.1 > last.total + 0.1


def test_the_reward_that_is_blind_to_the_end_pays_for_forgetting_and_a_run_is_told_so():
    rewards = load_config(BLIND, []).rewards
    table = cheats.earned(rewards, cheats.LONG)
    assert best_cheat(table) == "keep_the_last" and table["keep_the_last"].total > table["honest"].total
    assert "forgetting can pay" in forgetting_pays(rewards, 16)
