"""The scripted expert: what it writes of a change, with and without the old value in view."""

from __future__ import annotations

import pytest

from finemem_jax.baselines import _scripted as scripted
from finemem_jax.config import Config, ExpertConfig, MemoryConfig, PromptConfig, SftConfig, resolve
from finemem_jax.env.environment import Turn
from finemem_jax.evaluate import evaluate_script
from finemem_jax.memory import flat
from finemem_jax.types import Chunk, Episode, MemoryItem, Question
from tests import fakes

CHANGE = "now Petrov Maya dentist"
OLD, OTHER = MemoryItem("#1", "Orlov Maya dentist", 0, (0,)), MemoryItem("#2", "red Leo sofa", 0, (0,))


def written(view, **settings):
    """What the expert writes of one changed fact, with `view` in memory."""
    sure = {"keep_useful": 1.0, "keep_noise": 1.0, "skip": 0.0, "update_changed": 1.0} | settings
    asked = Question("what is Maya's dentist?", ("Petrov",), "exact_match")
    episode = Episode("e", "diary", (Chunk(CHANGE, 0, ()),), (asked,))
    turn = Turn(0, (), flat.Flat(MemoryConfig(), len, view), view, chunk=0)
    (operation,) = scripted.expert(ExpertConfig(**sure), 4, 0)(episode, turn)
    return operation


@pytest.mark.parametrize("view", [(OLD, OTHER), (OTHER, OLD)])
def test_a_change_is_an_update_of_the_item_it_supersedes(view):
    operation = written(view)
    assert (operation.name, operation.arguments["id"]) == ("memory_update", "#1")
    assert operation.arguments["content"] == CHANGE


@pytest.mark.parametrize(
    ("view", "settings"), [((OLD, OTHER), {"update_changed": 0.0}), ((OTHER,), {}), ((), {"update_wrong": 1.0})]
)
def test_it_is_inserted_where_it_is_not_to_be_updated_or_nothing_is_there_to_update(view, settings):
    assert written(view, **settings).name == "memory_insert"


def test_an_imperfect_expert_updates_an_item_that_says_something_else():
    operation = written((OTHER,), update_wrong=1.0)
    assert (operation.name, operation.arguments["id"]) == ("memory_update", "#2")


@pytest.mark.parametrize("memory", ["overwrite", "layered"])
@pytest.mark.parametrize("name", ["expert", "oracle", "store_all", "recent_k"])
def test_scripts_write_a_flat_memory_without_prompts_where_the_configs_is_another(env, name, memory):
    """Their calls would be none of its tools, and its prompts leave them no room."""
    cfg = Config(
        memory=MemoryConfig(name=memory),
        prompt=PromptConfig(name="memagent", codec="raw", max_prompt_tokens=8),
        sft=SftConfig(expert=ExpertConfig(keep_useful=1.0, skip=0.0)),
    )
    said = resolve("finemem_jax.baselines", name).contestant(cfg)
    answerer = resolve("finemem_jax.answerers", "extractive").create(cfg.answerer)
    episode = fakes.episode(["Orlov Maya dentist"], [("what is Maya's dentist?", "Orlov")])
    (rollout,) = evaluate_script(said, env, answerer, [episode])
    assert [item.text for item in rollout.memory.items] == ["Orlov Maya dentist"]
    assert all(outcome.ok for step in rollout.steps for outcome in step.outcomes)
